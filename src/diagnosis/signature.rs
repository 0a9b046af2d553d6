//! What groups incidents of one cause: `v1:<class>:<subject>:<hash8>`.
//!
//! The hash is over class, subject and the next two callers, each without what differs from build
//! to build or from boot to boot. When the rules change, the version does, and old groups stay.

use super::Class;
use super::functions;
use crate::base::id::Digest;
use crate::evidence::trace::Frame;

/// More callers tell more causes apart, but survive fewer builds.
const CALLERS: usize = 2;

/// The callers that go into a signature, out of those of a subject.
pub(super) fn callers(frames: &[&Frame]) -> Vec<String> {
    let own = frames.iter().take_while(|frame| !functions::is_entry(frame.name()));
    own.take(CALLERS).map(|frame| normalised(frame)).collect()
}

/// The signature.
pub(super) fn of(class: Class, subject: &str, callers: &[String]) -> String {
    let parts: Vec<&str> =
        [class.word(), subject].into_iter().chain(callers.iter().map(String::as_str)).collect();
    let digest = Digest::of(parts.join("\n").as_bytes()).to_string();
    let hash = digest.get(..8).unwrap_or(&digest);
    format!("v1:{class}:{subject}:{hash}")
}

/// `func@module`, the function as its source names it.
fn normalised(frame: &Frame) -> String {
    let name = without_syscall_prefix(frame.name());
    match &frame.module {
        Some(module) => format!("{name}@{module}"),
        None => name.to_owned(),
    }
}

fn without_syscall_prefix(name: &str) -> &str {
    const PREFIXES: [&str; 8] = [
        "__x64_sys_",
        "__ia32_sys_",
        "__arm64_sys_",
        "__se_sys_",
        "__do_sys_",
        "__se_compat_sys_",
        "__do_compat_sys_",
        "ksys_",
    ];
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_and_boots_do_not_matter() {
        let frames = |texts: [&str; 3]| {
            let frames: Vec<Frame> = texts.iter().filter_map(|text| Frame::read(text)).collect();
            callers(&frames.iter().collect::<Vec<_>>())
        };
        let one = frames(["a.isra.0+0x1/0x2 [m]", "__x64_sys_read+0x3/0x4", "b+0x1/0x2"]);
        assert_eq!(one, ["a@m", "read"]);
        assert_eq!(one, frames(["a+0x5/0x6 [m 0123]", "ksys_read+0x1/0x8", "c+0x1/0x2"]));
        assert_eq!(of(Class::Panic, "f", &one), "v1:panic:f:d0a1bcd3");
    }
}

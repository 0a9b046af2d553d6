//! What is masked, and where it stays.
//!
//! A rule is a pattern whose group `x` is what goes, and a check of what was found and of its neighbours, for
//! patterns alone take a PCI address for a MAC and a time for an IPv6 address.

use regex::bytes::{Captures, Regex};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::LazyLock;

/// What was masked so far.
#[derive(Default)]
pub(super) struct Masks {
    /// The number of each word under each rule.
    numbers: BTreeMap<&'static str, BTreeMap<Vec<u8>, usize>>,
    counts: BTreeMap<&'static str, u64>,
    /// Names of hosts that something in the bundle calls so.
    hosts: Vec<Vec<u8>>,
}

struct Rule {
    word: &'static str,
    pattern: Regex,
    /// Whether what was found is what is looked for.
    is: fn(&[u8]) -> bool,
    /// Bytes that do not stand beside it where it is what it seems.
    beside: fn(u8) -> bool,
}

/// Each is looked for everywhere, and no guest has so many.
const HOSTS_MAX: usize = 64;

const SECRET_WORDS: &str = r"(?:\b|_)(?:pass(?:word|wd|phrase)|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|psk|credentials?)";

/// Parameters of a kernel whose values say how it runs and nothing of whose it is.
const PARAMETERS: &[&str] = &[
    "acpi",
    "apparmor",
    "audit",
    "BOOT_IMAGE",
    "cgroup_disable",
    "cgroup_enable",
    "clocksource",
    "console",
    "consoleblank",
    "crashkernel",
    "default_hugepagesz",
    "earlycon",
    "earlyprintk",
    "elevator",
    "hpet",
    "hugepages",
    "hugepagesz",
    "hung_task_panic",
    "idle",
    "init",
    "initcall_debug",
    "intel_iommu",
    "intel_idle.max_cstate",
    "iommu",
    "isolcpus",
    "lockdown",
    "log_buf_len",
    "loglevel",
    "maxcpus",
    "mem",
    "mitigations",
    "net.ifnames",
    "nmi_watchdog",
    "nohz_full",
    "nr_cpus",
    "oops",
    "panic",
    "pci",
    "preempt",
    "printk.devkmsg",
    "printk.time",
    "processor.max_cstate",
    "rcu_nocbs",
    "root",
    "rootfstype",
    "rootwait",
    "selinux",
    "softlockup_panic",
    "sysctl.kernel.sysrq",
    "transparent_hugepage",
];

/// In this order: what is masked by one is no more seen by the next.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let secret = format!(
        r#"(?i-u){SECRET_WORDS}["']?\s*[=:]\s*["']?(?P<x>[^\s"',;&]+)|authorization:\s*[a-z]+\s+(?P<y>[^\s"']+)|(?P<z>eyJ[a-z0-9_-]{{8,}}\.[a-z0-9._-]+|akia[0-9a-z]{{16}}|gh[oprsu]_[a-z0-9]{{20,}})"#
    );
    let any = |_: &[u8]| true;
    let nothing = |_| false;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    vec![
        rule(
            "key",
            r"(?s-u)-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<x>.*?)(?:-----END|\z)",
            any,
            nothing,
        ),
        rule("secret", &secret, any, nothing),
        rule("secret", r"(?-u)://(?P<x>[^/\s:@]+:[^/\s@]+)@", any, nothing),
        rule(
            "vector",
            r"(?-u)(?:FPR[0-7]|[XYZ]MM[0-9]{2})=(?P<x>[0-9a-f]{16,}(?: [0-9a-f]{4,16})*)",
            is_set,
            nothing,
        ),
        rule(
            "command",
            r#"(?-u)\b(?:COMMAND=|cmdline=|proctitle=|a[0-9]{1,3}=")"?(?P<x>[^"\r\n]+)"#,
            any,
            nothing,
        ),
        rule(
            "user",
            r#"(?-u)\b(?:user|USER|acct|AUID|UID)="(?P<x>[^"]+)"|(?:/home|/Users)/(?P<y>[^/\s"':]+)|(?:Accepted|Failed) [a-z/-]+ for (?:invalid user )?(?P<z>[^\s]+)|session (?:opened|closed) for user (?P<w>[^\s(]+)"#,
            is_person,
            nothing,
        ),
        rule("host", r"(?-u)Linux version \S+ \((?P<x>[^()\s]+@[^()\s]+)\)", any, nothing),
        rule(
            "email",
            r"(?-u)(?P<x>[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)",
            is_email,
            word,
        ),
        rule(
            "host",
            r"(?-u)(?P<x>(?:[A-Za-z0-9-]{1,63}\.)+(?:com|net|org|edu|gov|mil|io|dev|cloud|app|local|lan|internal|corp|home|intra|localdomain|eu))",
            any,
            name,
        ),
        rule(
            "uuid",
            r"(?-u)(?P<x>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})",
            any,
            word,
        ),
        rule(
            "serial",
            r"(?-u)(?:SerialNumber|[Ss]erial [Nn]umber|serial)[:=] ?(?P<x>[A-Za-z0-9._-]+)",
            any,
            nothing,
        ),
        rule("ip", r"(?-u)(?P<x>[0-9]{1,3}(?:\.[0-9]{1,3}){3})", is_ipv4, word),
        rule("mac", r"(?-u)(?P<x>[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5,})", is_mac, part),
        rule("ip", r"(?-u)(?P<x>[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8})", is_ipv6, part),
    ]
});

/// Where a host is called by its name.
static HOSTS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?m-u)(?:Hostname set to|[Ss]et hostname to|hostname[=:]) ?["<]?(?P<x>[A-Za-z0-9][A-Za-z0-9.-]{2,62})|^\r?(?P<y>[A-Za-z0-9][A-Za-z0-9.-]{2,62}) login: |[a-z_][a-z0-9_-]*@(?P<z>[A-Za-z0-9][A-Za-z0-9.-]{2,62}):[^\s]*[#$] "#,
    )
});

/// Where a kernel says how it was started.
static COMMAND_LINE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?-u)[Cc]ommand line(?:: | parameters ")(?P<x>[^"\r\n]*)"#));

/// A message of the kernel has its time. It may begin behind a shell's prompt and what was typed there.
static KERNEL_LINE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?-u)(?:<[0-9]{1,3}>)?\[ *[0-9]{1,10}\.[0-9]{6}\]"));

static SECRET_KEY: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("(?i-u){SECRET_WORDS}$")));

impl Masks {
    /// Notes the hosts that this text calls by their names; they are masked wherever they stand alone.
    pub(super) fn learn_hosts(&mut self, text: &[u8]) {
        for found in HOSTS.captures_iter(text).filter_map(|found| group(&found)) {
            let host = &text[found];
            let is_word = ["localhost", "linux", "kernel", "debian", "ubuntu", "none", "root"]
                .iter()
                .any(|word| host.eq_ignore_ascii_case(word.as_bytes()));
            let is_new = !is_word && !self.hosts.iter().any(|known| known == host);
            if is_new && self.hosts.len() < HOSTS_MAX {
                self.hosts.push(host.to_vec());
            }
        }
    }

    /// By patterns.
    pub(super) fn text(&mut self, text: &[u8]) -> Vec<u8> {
        let mut text = self.command_lines(text);
        for rule in RULES.iter() {
            let found: Vec<Range<usize>> = rule
                .pattern
                .captures_iter(&text)
                .filter_map(|found| group(&found))
                .filter(|range| rule.holds(&text, range))
                .collect();
            text = self.replaced(&text, rule.word, found);
        }
        for host in self.hosts.clone() {
            let found = alone(&text, &host);
            text = self.replaced(&text, "host", found);
        }
        text
    }

    /// The same for a text of ours or out of JSON.
    pub(super) fn words(&mut self, text: &mut String) {
        *text = String::from_utf8_lossy(&self.text(text.as_bytes())).into_owned();
    }

    /// The same for a field of JSON, whose name may say more than its value.
    pub(super) fn field(&mut self, key: &str, value: &mut String) {
        let rule = match key {
            "serial" => "serial",
            _ if SECRET_KEY.is_match(key.as_bytes()) => "secret",
            _ => return self.words(value),
        };
        if !value.is_empty() && !is_mask(value.as_bytes()) {
            *value = self.mask(rule, value.as_bytes());
        }
    }

    /// The messages of the kernel; of what stands between them only how long it is.
    pub(super) fn kernel_lines(&mut self, text: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(text.len());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let kernel = KERNEL_LINE.find(line).map_or(line.len(), |found| found.start());
            let (program, kernel) = line.split_at(kernel);
            let bare = program.trim_ascii();
            if bare.is_empty() || is_line_mask(bare) {
                kept.extend_from_slice(program);
            } else {
                *self.counts.entry("line").or_default() += 1;
                kept.extend_from_slice(format!("<line of {} bytes>\r\n", bare.len()).as_bytes());
            }
            kept.extend_from_slice(kernel);
        }
        kept
    }

    /// How often each rule masked something.
    pub(super) fn counts(self) -> Vec<(String, u64)> {
        self.counts.into_iter().map(|(rule, count)| (rule.to_owned(), count)).collect()
    }

    /// Values of parameters that are not known to be harmless.
    fn command_lines(&mut self, text: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        for line in COMMAND_LINE.captures_iter(text).filter_map(|found| group(&found)) {
            let mut at = line.start;
            for word in text[line].split(|byte| *byte == b' ') {
                let range = at..at + word.len();
                at = range.end + 1;
                let Some(equals) = word.iter().position(|byte| *byte == b'=') else { continue };
                let is_known = PARAMETERS.iter().any(|known| known.as_bytes() == &word[..equals]);
                let value = range.start + equals + 1..range.end;
                if !is_known && !value.is_empty() && !is_mask(&text[value.clone()]) {
                    found.push(value);
                }
            }
        }
        self.replaced(text, "parameter", found)
    }

    fn replaced(&mut self, text: &[u8], rule: &'static str, found: Vec<Range<usize>>) -> Vec<u8> {
        let mut replaced = Vec::with_capacity(text.len());
        let mut at = 0;
        for Range { start, end } in found {
            replaced.extend_from_slice(&text[at..start]);
            replaced.extend_from_slice(self.mask(rule, &text[start..end]).as_bytes());
            at = end;
        }
        replaced.extend_from_slice(&text[at..]);
        replaced
    }

    fn mask(&mut self, rule: &'static str, word: &[u8]) -> String {
        *self.counts.entry(rule).or_default() += 1;
        let numbers = self.numbers.entry(rule).or_default();
        let next = numbers.len() + 1;
        let number = numbers.entry(word.to_vec()).or_insert(next);
        format!("<{rule}-{number}>")
    }
}

impl Rule {
    fn holds(&self, text: &[u8], range: &Range<usize>) -> bool {
        let found = &text[range.clone()];
        let before = range.start.checked_sub(1).is_some_and(|at| (self.beside)(text[at]));
        let behind = text.get(range.end).is_some_and(|byte| (self.beside)(*byte));
        !before && !behind && !is_mask(found) && (self.is)(found)
    }
}

fn rule(word: &'static str, text: &str, is: fn(&[u8]) -> bool, beside: fn(u8) -> bool) -> Rule {
    Rule { word, pattern: pattern(text), is, beside }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a test compiles each")
}

/// What of a match goes: the one group of those that took part.
fn group(found: &Captures<'_>) -> Option<Range<usize>> {
    ["x", "y", "z", "w"].iter().find_map(|name| found.name(name)).map(|group| group.range())
}

/// Wherever this name is a word.
fn alone(text: &[u8], name: &[u8]) -> Vec<Range<usize>> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let starts = text.windows(name.len()).enumerate().filter(|(_, window)| *window == name);
    let ranges = starts.map(|(start, _)| start..start + name.len());
    let mut found: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        let before = range.start.checked_sub(1).is_some_and(|at| is_part(&text[at]));
        let behind = text.get(range.end).is_some_and(is_part);
        if !before && !behind && found.last().is_none_or(|last| last.end <= range.start) {
            found.push(range);
        }
    }
    found
}

// === whether it is what it seems ===

/// `<ip-2>`: what was masked stays so, also when it is redacted once more.
fn is_mask(found: &[u8]) -> bool {
    let inner = found.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    inner.is_some_and(|inner| {
        let mut parts = inner.splitn(2, |byte| *byte == b'-');
        let (word, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        word.iter().all(u8::is_ascii_lowercase)
            && !number.is_empty()
            && number.iter().all(u8::is_ascii_digit)
    })
}

fn is_line_mask(line: &[u8]) -> bool {
    let number = line.strip_prefix(b"<line of ").and_then(|rest| rest.strip_suffix(b" bytes>"));
    number.is_some_and(|number| number.iter().all(u8::is_ascii_digit))
}

fn is_set(found: &[u8]) -> bool {
    found.iter().any(|byte| !matches!(byte, b'0' | b' '))
}

fn is_person(found: &[u8]) -> bool {
    found != b"root"
}

/// Units of systemd have a name like one.
fn is_email(found: &[u8]) -> bool {
    let end = found.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let units: [&[u8]; 9] = [
        b"service", b"socket", b"slice", b"timer", b"mount", b"target", b"device", b"scope",
        b"path",
    ];
    end.iter().all(u8::is_ascii_alphabetic) && !units.contains(&end)
}

/// Of everybody, and so of nobody: this host, any host, masks of networks.
fn is_ipv4(found: &[u8]) -> bool {
    let address = std::str::from_utf8(found).ok().and_then(|text| text.parse::<Ipv4Addr>().ok());
    address.is_some_and(|a| !a.is_loopback() && !a.is_unspecified() && a.octets()[0] != 255)
}

fn is_ipv6(found: &[u8]) -> bool {
    let address = std::str::from_utf8(found).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
    address.is_some_and(|a| !a.is_loopback() && !a.is_unspecified())
}

fn is_mac(found: &[u8]) -> bool {
    let digits = || found.iter().filter(|byte| byte.is_ascii_hexdigit());
    !digits().all(|byte| *byte == b'0') && !digits().all(|byte| byte.eq_ignore_ascii_case(&b'f'))
}

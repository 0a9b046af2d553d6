//! Words for titles and facts. Whatever a guest chose is made harmless here.

use crate::base::text::harmless_line;
use crate::evidence::trace::Frame;

/// Longer guest text would crowd out our own words.
const QUOTED_CHARS: usize = 120;

/// Text of a guest as part of a sentence.
pub(super) fn quoted(text: &str) -> String {
    let line = harmless_line(text.as_bytes());
    match line.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line,
    }
}

/// `1 task`, `3 tasks`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and c`; no more than `limit` of them.
pub(super) fn list(words: &[String], limit: usize) -> String {
    let (shown, more) = words.split_at(words.len().min(limit));
    match (shown, more.len()) {
        ([], _) => String::new(),
        ([only], 0) => only.clone(),
        ([most @ .., last], 0) => format!("{} and {last}", most.join(", ")),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `CPU 1`, `both CPUs`, `all 4 CPUs`, `CPUs 1 and 3`.
pub(super) fn cpus(indices: &[u32], all: usize) -> String {
    let words: Vec<String> = indices.iter().map(u32::to_string).collect();
    match (indices.len(), all) {
        (1, _) => format!("CPU {}", words.concat()),
        (2, 2) => "both CPUs".to_owned(),
        (some, all) if some == all => format!("all {all} CPUs"),
        _ => format!("CPUs {}", list(&words, 8)),
    }
}

/// `function`, or `function (module)`.
pub(super) fn place(frame: &Frame) -> String {
    match &frame.module {
        Some(module) => format!("{} ({module})", frame.name()),
        None => frame.name().to_owned(),
    }
}

/// `f, g and h (module)`, each once.
pub(super) fn places(frames: &[&Frame]) -> String {
    let mut words: Vec<String> = Vec::new();
    let one_module = frames.windows(2).all(|pair| pair[0].module == pair[1].module);
    for frame in frames {
        let word = if one_module { frame.name().to_owned() } else { place(frame) };
        if !words.contains(&word) && words.len() < frames.len().min(64) {
            words.push(word);
        }
    }
    let module = frames.first().and_then(|frame| frame.module.as_ref()).filter(|_| one_module);
    match module {
        Some(module) => format!("{} ({module})", list(&words, 3)),
        None => list(&words, 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_spoken() {
        let words = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!(list(&words(0), 3), "");
        assert_eq!(list(&words(1), 3), "0");
        assert_eq!(list(&words(3), 3), "0, 1 and 2");
        assert_eq!(list(&words(5), 3), "0, 1, 2 and 2 more");
        assert_eq!(cpus(&[0, 1], 2), "both CPUs");
        assert_eq!(cpus(&[0, 1, 2], 3), "all 3 CPUs");
        assert_eq!(cpus(&[0, 2], 4), "CPUs 0 and 2");
        assert_eq!(quoted("a\x1b[2J\u{202e}b"), "a\\u{1b}[2J\\u{202e}b");
    }
}

//! Whole programs with real guests, a real broker and a real disk. One binary, run one test at a time
//! by `hack/test`: two cores run one guest and what watches it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stderr, reason = "a test that fails shows what the programs logged")]

mod all {
    pub(crate) mod lab;
    pub(crate) mod programs;

    mod arm;
    mod arm64;
    mod bad_input;
    mod beside;
    mod binding;
    mod bundle_file;
    mod captures;
    mod console;
    mod debugger;
    mod device_log;
    mod dumps;
    mod faults;
    mod inspect;
    mod keys;
    mod kills;
    mod matrix;
    mod once;
    mod path;
    mod pauses;
    mod probes;
    mod records;
    mod survival;
    mod table;
    mod verdicts;
    mod ways_in;
}

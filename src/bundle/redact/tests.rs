//! What is personal goes, what is the kernel's stays.

use super::*;
use crate::evidence::Evidence;
use crate::evidence::recorded::{MONITOR, bytes};
use proptest::prelude::*;

fn source(keep_lines: bool) -> Source {
    Source { sealed: Digest::of(b"sealed"), sealed_by: Digest::of(b"by"), keep_lines }
}

fn artifact(kind: Kind, data: &[u8]) -> Artifact {
    Artifact { kind, name: String::new(), data: data.to_vec() }
}

fn redacted(artifacts: Vec<Artifact>, keep_lines: bool) -> Bundle {
    redact(&Bundle { artifacts, ..super::super::tests::bundle() }, source(keep_lines))
}

/// The console of that text, redacted.
fn console(text: &str, keep_lines: bool) -> String {
    let bundle = redacted(vec![artifact(Kind::Console, text.as_bytes())], keep_lines);
    String::from_utf8(bundle.artifacts[0].data.clone()).unwrap()
}

#[test]
fn what_is_personal_goes() {
    let text = "\
[    0.000000] Linux version 6.1.0 (joe@buildbox) (gcc 12.2.0) #1 SMP
[    0.000000] Command line: BOOT_IMAGE=/vmlinuz root=UUID=44db0e05-2cc8-40b7-9add-e4c56464586e ro customer=acme console=ttyS0,115200 db=s3cret
[    0.000000] Unknown kernel command line parameters \"customer=acme\", will be passed to user space.
[    1.000000] systemd[1]: Hostname set to <edge-plant-7>.
[    2.000000] edge-plant-7 in two words: edge-plant-7 and edge-plant-77
[    3.000000] IPv4: martian source 10.1.2.3 from 192.168.7.9, on dev eth0; again 10.1.2.3
[    3.000001] e1000: eth0 52:54:00:12:34:56, ll header: ff:ff:ff:ff:ff:ff 52-54-00-12-34-57
[    3.000002] IPv6: fe80::5054:ff:fe12:3456 dev eth0; ::1 and ::ffff:10.1.2.3 too
[    4.000000] audit: acct=\"joe\" exe=\"/home/joe/run\" proctitle=2F62696E
[    5.000000] usb 1-1: SerialNumber: 4C530001
[    5.000001] app: password=hunter2 token: abc.def, https://joe:pw@repo.example.com/x joe@example.org
[    5.000002] app: Authorization: Bearer abcdef eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2UifQ.c2ln AKIAIOSFODNN7EXAMPLE
edge-plant-7 login: joe
$ mysql -p hunter3 [    6.000000] sysrq: Show Blocked State
";
    insta::assert_snapshot!(console(text, false));
    insta::assert_snapshot!(console(
        "edge-9 login: joe\njoe@edge-9:~$ curl http://10.0.0.1/\nroot on edge-9\n",
        true
    ));
}

/// What kernels say looks like addresses of networks, names and secrets all the time.
#[test]
fn what_a_kernel_engineer_works_with_stays() {
    let text = "\
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.100000] pci 0000:00:03.0: [1af4:1000] type 00 class 0x020000
[    0.200000] Speculative Store Bypass: Mitigation: Speculative Store Bypass disabled via prctl
[    0.300000] serial8250: ttyS0 at I/O 0x3f8 (irq = 4, base_baud = 115200) is a 16550A
[    0.400000] rtc_cmos 00:05: setting system clock to 2026-11-20T18:11:14 UTC (1795198274)
[    0.500000] lifesign_lab: module verification failed: signature and/or required key missing - tainting kernel
[   10.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[   10.000001] RIP: 0010:do_oops+0x12/0x20 [lifesign_lab]
[   10.000002] Code: c3 cc cc cc cc 48 8b 04 25 10 00 00 00 <c7> 00 00 00 00 00
[   10.000003] RSP: 0018:ffffb1f0c0123e28 EFLAGS: 00010246 R13: ffff8f2e81234000
[   10.000004] CPU: 1 PID: 166 Comm: sh Tainted: G           OE      6.1.0-56-amd64 #1  Debian 6.1.192-2
[   10.000005]  ? __pfx_foo.isra.0+0x10/0x10 core::fmt::Formatter dead::beef_fn+0x1/0x2
[   10.000006] Workqueue: events_unbound flush_to_ldisc 12:34:56 127.0.0.1 255.255.255.0 0.0.0.0
[   10.000007] systemd[1]: getty@tty1.service: state user@1000.service
";
    assert_eq!(console(text, false), text);
}

#[test]
fn a_guest_that_crashed_reads_the_same() {
    for bytes in [
        bytes!("panic-6.12", "console"),
        bytes!("oops-6.1", "console"),
        bytes!("mutex-deadlock-6.12", "console"),
    ] {
        let before = vec![artifact(Kind::Console, bytes)];
        let after = redacted(before.clone(), false).artifacts;
        let diagnose =
            |artifacts: &[Artifact]| crate::diagnosis::diagnose(&Evidence::read(artifacts));
        assert_eq!(diagnose(&after).signature, diagnose(&before).signature);
        assert_eq!(diagnose(&after).facts_for, diagnose(&before).facts_for);
    }
}

#[test]
fn replies_of_a_monitor_are_still_read_and_say_no_more_of_memory() {
    let registers = "{\"r\":\"RAX=00000000deadbeef RIP=ffffffff81234567\\r\\nYMM00=0000000000000000 0000000000000000 77e8a55e4ee7826d f1677c2174a8b3f8\",\
        \"serial\":\"WD-1\",\"api-key\":\"k\",\"n\":7}";
    let bundle = redacted(vec![artifact(Kind::Qmp, registers.as_bytes())], false);
    insta::assert_snapshot!(String::from_utf8_lossy(&bundle.artifacts[0].data), @r#"{"api-key":"<secret-1>","n":7,"r":"RAX=00000000deadbeef RIP=ffffffff81234567\r\nYMM00=<vector-1>","serial":"<serial-1>"}"#);
    let before = vec![artifact(Kind::Qmp, MONITOR)];
    let after = redacted(before.clone(), false).artifacts;
    let read = |artifacts: &[Artifact]| Evidence::read(artifacts).qmp.unwrap();
    assert_eq!(read(&after).cpus, read(&before).cpus);
}

#[test]
fn it_says_what_was_done_to_it() {
    let picture = Artifact { name: "screen".to_owned(), ..artifact(Kind::Screenshot, b"PNG") };
    let broken = artifact(Kind::Memory, b"{\"half");
    let console = artifact(
        Kind::Console,
        b"[    1.000000] from 10.0.0.1 to 10.0.0.2 to 10.0.0.1\nlogin: joe\n",
    );
    let bundle = redacted(vec![console, picture, broken], false);
    let redaction = bundle.redaction.unwrap();
    assert_eq!(bundle.artifacts.len(), 1);
    assert_eq!(redaction.left_out, ["screenshot-screen", "memory"]);
    assert_eq!(redaction.masked, [("ip".to_owned(), 3), ("line".to_owned(), 1)]);
    assert_eq!((redaction.of, redaction.sealed_by), (Digest::of(b"sealed"), Digest::of(b"by")));
}

proptest! {
    /// Whatever a guest writes: lines of programs are gone, and to redact again changes nothing.
    #[test]
    fn no_line_of_a_program_stays(lines in prop::collection::vec("[ -~]{0,40}", 0..20)) {
        let text = lines.join("\n");
        let once = console(&text, false);
        for line in once.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let stamped = line.starts_with('[') || line.starts_with('<');
            prop_assert!(stamped, "{line}");
        }
        prop_assert_eq!(console(&once, false), once);
    }

    #[test]
    fn no_address_stays(a: [u8; 4], mac: [u8; 6], v6: u128, around in "[ ,;=()/\\[\\]-]{2}") {
        let (left, right) = around.split_at(1);
        let v4 = std::net::Ipv4Addr::from(a);
        prop_assume!(!v4.is_loopback() && a[0] != 255 && a != [0; 4] && mac != [0; 6] && mac != [255; 6] && v6 > 1);
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        for address in [v4.to_string(), mac.join(":"), std::net::Ipv6Addr::from(v6).to_string()] {
            let text = format!("[    1.000000] x{left}{address}{right}y\n");
            // What stands beside a MAC may make something else of it.
            if address.len() == 17 && (left == "-" || right == "-") {
                continue;
            }
            let left_of_it = console(&text, false);
            prop_assert!(!left_of_it.contains(&address), "{text} {left_of_it}");
        }
    }

    #[test]
    fn any_bytes_are_redacted(data: Vec<u8>, keep: bool) {
        for kind in [Kind::Console, Kind::Sysrq, Kind::Qmp, Kind::Memory] {
            redacted(vec![artifact(kind, &data)], keep);
        }
    }
}

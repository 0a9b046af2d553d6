//! Neighbours on a wire: two network namespaces and a pair of virtual cables between them.
//!
//! A test makes the namespaces and runs itself again inside of one, so that no packet leaves them
//! and the asking code needs to know nothing of it.

use super::*;
use crate::transport::network::{arp, ping, uplink};
use std::process::{Command, Stdio};

const INSIDE: &str = "LIFESIGN_TEST_INSIDE";

/// Two namespaces: `.._a` with 10.77.0.1 on `wire`, and `.._b` with 10.77.0.2.
struct Namespaces {
    name: String,
}

impl Namespaces {
    fn new(test: &str) -> Self {
        let root = nix::unistd::geteuid().is_root();
        assert!(root, "network namespaces are made by root: run this test as root");
        let name = format!("ls{}{test}", std::process::id());
        let namespaces = Self { name };
        let (a, b) = (namespaces.near(), namespaces.far());
        run(&format!(
            "ip netns add {a} && ip netns add {b} &&
             ip -n {a} link add wire type veth peer name wire netns {b} &&
             ip -n {a} addr add 10.77.0.1/24 dev wire && ip -n {b} addr add 10.77.0.2/24 dev wire &&
             ip -n {a} addr add fd77::1/64 dev wire nodad && ip -n {b} addr add fd77::2/64 dev wire nodad &&
             ip -n {a} link set lo up && ip -n {a} link set wire up && ip -n {b} link set wire up"
        ));
        namespaces
    }

    fn near(&self) -> String {
        format!("{}_a", self.name)
    }

    fn far(&self) -> String {
        format!("{}_b", self.name)
    }

    /// Runs this very test inside, as `with` has it.
    fn again(&self, test: &str, with: &str) {
        let program = std::env::current_exe().unwrap();
        let test = format!("transport::network::tests::neighbours::{test}");
        run(&format!(
            "ip netns exec {} {with} env {INSIDE}=1 {} --exact {test} --nocapture",
            self.near(),
            program.display()
        ));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [self.near(), self.far()] {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn run(command: &str) {
    let done = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(done.status.success(), "failed: {command}\n{}", said.join("\n"));
}

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn neighbour(address: &str) -> Target<'_> {
    let address = SocketAddr::new(address.parse().unwrap(), 80);
    Target { address, interface: None, nat: false }
}

fn says(finding: &Finding) -> String {
    format!("{} {}: {}", finding.answer, finding.rung, finding.reason)
}

async fn pings(target: &Target<'_>, ms: u64) -> String {
    let said = says(&ping::ask(target, within(ms)).await);
    said.split(" in ").next().unwrap().to_owned()
}

async fn arps(target: &Target<'_>, ms: u64) -> String {
    says(&arp::ask(target, within(ms)).await)
}

#[tokio::test]
async fn a_neighbour_is_asked_on_the_wire() {
    if !inside() {
        let namespaces = Namespaces::new("wire");
        return namespaces.again("a_neighbour_is_asked_on_the_wire", "");
    }
    let on_wire = |ip| Target { interface: Some("wire"), ..neighbour(ip) };
    let asked = [
        arps(&neighbour("10.77.0.2"), 3_000).await,
        arps(&neighbour("10.77.0.3"), 300).await,
        arps(&neighbour("192.0.2.1"), 300).await,
        arps(&Target { interface: Some("lo"), ..neighbour("127.0.0.1") }, 300).await,
        arps(&Target { interface: Some("nowhere"), ..neighbour("10.77.0.2") }, 300).await,
        arps(&neighbour("fd77::2"), 300).await,
        arps(&Target { nat: true, ..neighbour("10.77.0.2") }, 300).await,
        pings(&neighbour("10.77.0.2"), 3_000).await,
        pings(&on_wire("10.77.0.2"), 3_000).await,
        pings(&neighbour("10.77.0.3"), 5_000).await,
        pings(&neighbour("fd77::2"), 3_000).await,
        pings(&on_wire("fd77::2"), 3_000).await,
        pings(&neighbour("192.0.2.1"), 300).await,
        pings(&neighbour("127.0.0.1"), 3_000).await,
        pings(&Target { nat: true, ..neighbour("10.77.0.2") }, 300).await,
    ];
    insta::assert_snapshot!(asked.join("\n"), @"
    alive kernel: 10.77.0.2 answers ARP on `wire`
    dead kernel: nobody on `wire` answers for 10.77.0.3
    unknown kernel: 192.0.2.1 is in no network of this host's: name the interface
    unknown kernel: `lo` is no Ethernet, there is no ARP on it
    unknown kernel: this host has no interface `nowhere`
    unknown kernel: ARP is of IPv4: ask fd77::2 with a ping
    unknown kernel: 10.77.0.2 stands for the guest, and who owns it is not the guest
    alive kernel: 10.77.0.2 answers a ping
    alive kernel: 10.77.0.2 answers a ping
    dead kernel: 10.77.0.3 does not answer a ping
    alive kernel: fd77::2 answers a ping
    alive kernel: fd77::2 answers a ping
    unknown kernel: this host has no route to 192.0.2.1
    alive kernel: 127.0.0.1 answers a ping
    unknown kernel: 10.77.0.2 stands for the guest, and what answers a ping there is not the guest
    ");
    let closed = on_wire("10.77.0.2");
    let asked = [
        told(&closed, &tcp::ask(&closed, &tcp::Question::Answer, within(3_000)).await),
        told(&closed, &tcp::ask(&closed, &tcp::Question::Open, within(3_000)).await),
        told(
            &closed,
            &tcp::ask(&neighbour("10.77.0.3"), &tcp::Question::Answer, within(5_000)).await,
        ),
        told(&closed, &tcp::ask(&neighbour("192.0.2.1"), &tcp::Question::Open, within(300)).await),
    ];
    insta::assert_snapshot!(asked.join("\n"), @"
    alive kernel: APP was answered with a reset, which its kernel does by itself
    dead service: nobody listens at APP; beside it alive kernel: APP was answered with a reset, which its kernel does by itself
    dead kernel: nobody answers at the address 10.77.0.3
    unknown service: this host has no route to 192.0.2.1
    ");
}

#[tokio::test]
async fn a_bridge_without_an_address_asks_all_the_same() {
    if !inside() {
        let namespaces = Namespaces::new("bare");
        run(&format!("ip -n {} addr flush dev wire", namespaces.near()));
        return namespaces.again("a_bridge_without_an_address_asks_all_the_same", "");
    }
    let on_wire = |ip| Target { interface: Some("wire"), ..neighbour(ip) };
    let asked = [arps(&on_wire("10.77.0.2"), 3_000).await, arps(&on_wire("10.77.0.3"), 300).await];
    insta::assert_snapshot!(asked.join("\n"), @"
    alive kernel: 10.77.0.2 answers ARP on `wire`
    dead kernel: nobody on `wire` answers for 10.77.0.3
    ");
}

#[tokio::test]
async fn without_privilege_the_kernel_looks_for_us() {
    if !inside() {
        let namespaces = Namespaces::new("poor");
        let with = "setpriv --bounding-set -net_raw --inh-caps -net_raw";
        return namespaces.again("without_privilege_the_kernel_looks_for_us", with);
    }
    let asked = [
        arps(&neighbour("10.77.0.2"), 3_000).await,
        arps(&neighbour("10.77.0.2"), 300).await,
        arps(&neighbour("10.77.0.3"), 300).await,
        pings(&neighbour("10.77.0.2"), 300).await,
    ];
    insta::assert_snapshot!(asked.join("\n"), @"
    alive kernel: 10.77.0.2 was found on `wire` when the kernel looked for it
    unknown kernel: who has 10.77.0.2 is known from before; to ask anew needs CAP_NET_RAW
    dead kernel: the kernel finds nobody on `wire` for 10.77.0.3
    unknown kernel: a ping is not permitted: it needs CAP_NET_RAW, or our group
    ");
}

#[tokio::test]
async fn a_ping_needs_no_privilege_where_our_group_may() {
    if !inside() {
        let namespaces = Namespaces::new("group");
        let range = "sh -c \"echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range\"";
        run(&format!("ip netns exec {} {range}", namespaces.near()));
        let with = "setpriv --bounding-set -net_raw --inh-caps -net_raw";
        return namespaces.again("a_ping_needs_no_privilege_where_our_group_may", with);
    }
    let asked = [
        pings(&neighbour("10.77.0.2"), 3_000).await,
        pings(&neighbour("fd77::2"), 3_000).await,
        pings(&neighbour("10.77.0.3"), 5_000).await,
    ];
    insta::assert_snapshot!(asked.join("\n"), @"
    alive kernel: 10.77.0.2 answers a ping
    alive kernel: fd77::2 answers a ping
    dead kernel: 10.77.0.3 does not answer a ping
    ");
}

#[tokio::test]
async fn a_link_without_carrier_is_found_and_only_hardware_is_blamed() {
    if !inside() {
        let namespaces = Namespaces::new("cable");
        let with = format!("env FAR={}", namespaces.far());
        return namespaces
            .again("a_link_without_carrier_is_found_and_only_hardware_is_blamed", &with);
    }
    let way = |address: &str| uplink::way(address.parse().unwrap());
    let is_down = |address: &str| uplink::is_down(address.parse().unwrap());
    let by = |name: &str| uplink::Way::By(name.to_owned());
    assert_eq!(way("10.77.0.2"), by("wire"));
    assert_eq!(way("fd77::2"), by("wire"));
    assert_eq!(way("127.0.0.1"), by("lo"));
    assert!(way("192.0.2.1") == uplink::Way::None && is_down("192.0.2.1"));

    // A bridge that loses its only guest.
    run("ip link add bn1 type bridge && ip addr add 10.78.0.1/24 dev bn1 && ip link set bn1 up &&
         ip link add near type veth peer name guest && ip link set near master bn1 up &&
         ip link set guest up");
    until(|| state("bn1") == "up").await;
    run("ip link del guest");
    until(|| state("bn1") == "down").await;
    assert_eq!(way("10.78.0.2"), by("bn1"));
    assert!(!is_down("10.78.0.2"));

    // A virtual cable that is pulled at its far end may have a guest there; at ours, there is no way.
    let far = std::env::var("FAR").unwrap();
    run(&format!("ip -n {far} link set wire down"));
    until(|| state("wire").ends_with("down")).await;
    assert_eq!(way("10.77.0.2"), by("wire"));
    assert!(!is_down("10.77.0.2"));
    run("ip link set wire down");
    assert!(is_down("10.77.0.2"));
}

fn state(interface: &str) -> String {
    let file = format!("/sys/class/net/{interface}/operstate");
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

/// The kernel takes up to a second to tell what became of a carrier.
async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

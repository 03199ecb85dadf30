//! `portkeep status`.

use serde_json::{Value, json};

use crate::support::NetNs;

fn status(arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = crate::finish(&[&["status", "--json"], arguments].concat());
    assert_eq!(status, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn it_names_the_engine_and_the_pool() {
    let status = status(&[]);
    assert_eq!(status["engine"], "userspace");
    let because = "the kernel engine is not loaded";
    assert_eq!(status["guard"], json!({ "name": "shared", "because": because }));
    assert_eq!(status["pool"]["start"], 61000);
    assert_eq!(status["pool"]["count"], 4536);
    assert!(status["descriptors"]["soft"].as_u64().unwrap() > 0);
}

#[test]
fn a_pool_inside_the_ephemeral_range_is_reported_with_the_command_that_helps() {
    let Some(namespace) = NetNs::enter() else { return };
    namespace.ephemeral(20000, 30999);
    namespace.set("net/ipv4/ip_local_reserved_ports", "20005,40000-40001");
    let report = status(&["--pool", "20000-20009"]);
    assert_eq!(report["pool"]["exposed"], 9);
    assert_eq!(report["ephemeral"]["range"], json!({ "start": 20000, "count": 11000 }));
    let fixes: Vec<_> =
        report["in_the_way"].as_array().unwrap().iter().filter_map(|o| o["fix"].as_str()).collect();
    let setting = "sysctl -w net.ipv4.ip_local_reserved_ports=";
    let list = fixes.iter().find_map(|fix| fix.strip_prefix(setting)).unwrap();
    // The command keeps what was there, and does what it says.
    namespace.set("net/ipv4/ip_local_reserved_ports", list);
    let report = status(&["--pool", "20000-20009"]);
    assert_eq!(report["pool"]["exposed"], 0);
    let kept = report["ephemeral"]["reserved"].as_array().unwrap();
    assert!(kept.contains(&json!({ "start": 40000, "count": 2 })), "{kept:?}");
}

#[test]
fn a_list_longer_than_a_page_is_read_to_its_end() {
    let Some(namespace) = NetNs::enter() else { return };
    let every_second: Vec<String> = (20000..40000).step_by(2).map(|p| p.to_string()).collect();
    namespace.set("net/ipv4/ip_local_reserved_ports", &every_second.join(","));
    let report = status(&[]);
    assert_eq!(report["ephemeral"]["reserved"].as_array().unwrap().len(), 10_000);
}

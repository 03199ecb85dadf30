//! The header, the library and these tests speak of the same numbers and bytes; what is released
//! never changes. The compiler of C is asked, not a copy of the header.

use std::fs;
use std::process::Command;

use crate::client::{self, Request};
use crate::host::{Host, cases, compile};
use crate::maps;
use crate::support::installed;

cases![
    the_numbers_of_the_header_are_frozen,
    the_structures_of_the_header_are_frozen,
    the_tests_and_the_library_use_the_numbers_of_the_header,
    a_request_has_the_same_bytes_in_c_and_here,
    the_maps_have_the_sizes_that_the_loader_and_the_tests_count_on,
];

/// Appended to, and otherwise never changed.
const NUMBERS: &[(&str, u64)] = &[
    ("SOL_PORTKEEP", 0x504B),
    ("PORTKEEP_ACQUIRE", 1),
    ("PORTKEEP_ASSOCIATE", 2),
    ("PORTKEEP_RELEASE", 3),
    ("PORTKEEP_INSTANCE", 4),
    ("PORTKEEP_VERSION", 5),
    ("PORTKEEP_ADOPT", 6),
    ("PORTKEEP_GRANT", 7),
    ("PORTKEEP_POOL", 8),
    ("PORTKEEP_QUERY", 0x10000),
    ("PORTKEEP_INTERFACE", 1),
    ("PORTKEEP_GRANT_PROCESS", 0),
    ("PORTKEEP_GRANT_DESCENDANTS", 1),
    ("PORTKEEP_GRANT_USER", 2),
    ("PORTKEEP_GRANT_CGROUP", 3),
    ("PORTKEEP_GRANT_BEARER", 4),
    ("PORTKEEP_SAME_NUMBERS", 1),
    ("PORTKEEP_HAS_EXCLUSIVE", 1),
    ("PORTKEEP_HAS_DESCENDANTS", 2),
    ("PORTKEEP_HAS_USER", 4),
    ("PORTKEEP_HAS_CGROUP", 8),
    ("PORTKEEP_HAS_BEARER", 16),
    ("PORTKEEP_HAS_SAME_NUMBERS", 32),
    ("PORTKEEP_HAS_PERSISTENT", 64),
    ("PORTKEEP_HAS_EXCLUSIONS", 128),
    ("PORTKEEP_KIND_NONE", 0),
    ("PORTKEEP_KIND_RUNTIME", 1),
    ("PORTKEEP_KIND_PERSISTENT", 2),
    ("PORTKEEP_KIND_EXCLUSION", 3),
    ("PORTKEEP_ANCHOR_MAX", 256),
];

/// A structure, its size, and where each field is.
type Layout = (&'static str, u64, &'static [(&'static str, u64)]);

/// Likewise.
const LAYOUTS: &[Layout] = &[
    ("portkeep_range", 4, &[("start", 0), ("count", 2)]),
    (
        "portkeep_request",
        24,
        &[
            ("range", 0),
            ("grant", 4),
            ("alignment", 8),
            ("flags", 10),
            ("zero", 12),
            ("grant_id", 16),
        ],
    ),
    ("portkeep_instance", 16, &[("start", 0), ("count", 2), ("zero", 4), ("token", 8)]),
    ("portkeep_regrant", 24, &[("token", 0), ("grant", 8), ("zero", 12), ("grant_id", 16)]),
    ("portkeep_version", 8, &[("interface", 0), ("features", 4)]),
    (
        "portkeep_holder",
        40,
        &[
            ("start", 0),
            ("count", 2),
            ("kind", 4),
            ("tgid", 8),
            ("uid", 12),
            ("acquired", 16),
            ("comm", 24),
        ],
    ),
];

/// What these expressions of C amount to; `None` leaves the test out.
fn in_c<'a>(expressions: impl IntoIterator<Item = impl AsRef<str> + 'a>) -> Option<Vec<u64>> {
    let prints = expressions.into_iter().map(|expression| {
        format!("printf(\"%llu\\n\", (unsigned long long)({}));\n", expression.as_ref())
    });
    let said = said_in_c(&prints.collect::<String>())?;
    Some(said.lines().map(|number| number.parse().expect("a number")).collect())
}

/// What these statements print.
fn said_in_c(statements: &str) -> Option<String> {
    if !installed("gcc", "gcc") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = format!(
        "#define PORTKEEP_MAPS\n#include \"{}/bpf/portkeep.bpf.h\"\n\
         #include <arpa/inet.h>\n#include <stddef.h>\n#include <stdio.h>\n\
         int main(void) {{\n{statements}return 0;\n}}\n",
        env!("CARGO_MANIFEST_DIR")
    );
    let output = Command::new(compile(&source, folder.path())).output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap())
}

fn the_numbers_of_the_header_are_frozen(_: &Host) {
    let Some(values) = in_c(NUMBERS.iter().map(|(name, _)| name)) else { return };
    for ((name, frozen), value) in NUMBERS.iter().zip(values) {
        assert_eq!(value, *frozen, "{name}");
    }
    // What is defined for programs is frozen here: a new number has to be added to the list.
    let header = include_str!("../../bpf/portkeep.bpf.h");
    let (public, _) = header.split_once("#if defined(PORTKEEP_MAPS)").unwrap();
    let defined = public.lines().filter_map(|line| line.strip_prefix("#define "));
    let defined = defined.filter(|line| line.split_whitespace().nth(1).is_some());
    for name in defined.filter_map(|line| line.split_whitespace().next()) {
        assert!(NUMBERS.iter().any(|(frozen, _)| *frozen == name), "{name} is not frozen");
    }
}

fn the_structures_of_the_header_are_frozen(_: &Host) {
    let mut asked = Vec::new();
    let mut frozen = Vec::new();
    for (name, size, fields) in LAYOUTS {
        asked.push(format!("sizeof(struct {name})"));
        frozen.push(*size);
        for (field, offset) in *fields {
            asked.push(format!("offsetof(struct {name}, {field})"));
            frozen.push(*offset);
        }
    }
    let Some(values) = in_c(&asked) else { return };
    for ((asked, frozen), value) in asked.iter().zip(frozen).zip(values) {
        assert_eq!(value, frozen, "{asked}");
    }
}

/// `const NAME: type = number;` in a source of ours.
fn constant(source: &str, name: &str) -> u64 {
    let start = format!("const {name}: ");
    let line = source.lines().find_map(|line| {
        let (before, rest) = line.split_once(&start)?;
        matches!(before.trim(), "" | "pub(crate)" | "pub(super)").then_some(rest)
    });
    let (_, value) = line.and_then(|line| line.split_once(" = ")).expect(name);
    let value = value.trim_end_matches(';').replace('_', "");
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    }
    .unwrap_or_else(|error| panic!("{name} is {value}: {error}"))
}

fn the_tests_and_the_library_use_the_numbers_of_the_header(_: &Host) {
    let frozen = |name: &str| {
        let (_, number) = NUMBERS.iter().find(|(frozen, _)| *frozen == name).expect(name);
        *number
    };
    let size = |name: &str| LAYOUTS.iter().find(|(frozen, ..)| *frozen == name).expect(name).1;
    let library = include_str!("../../src/engine/kernel/abi.rs");
    for (name, in_tests, in_header) in [
        ("LEVEL", client::LEVEL, "SOL_PORTKEEP"),
        ("ACQUIRE", client::ACQUIRE, "PORTKEEP_ACQUIRE"),
        ("ASSOCIATE", client::ASSOCIATE, "PORTKEEP_ASSOCIATE"),
        ("RELEASE", client::RELEASE, "PORTKEEP_RELEASE"),
        ("INSTANCE", client::INSTANCE, "PORTKEEP_INSTANCE"),
        ("VERSION", client::VERSION, "PORTKEEP_VERSION"),
        ("ADOPT", client::ADOPT, "PORTKEEP_ADOPT"),
        ("GRANT", client::GRANT, "PORTKEEP_GRANT"),
        ("POOL", client::POOL, "PORTKEEP_POOL"),
        ("QUERY", client::QUERY, "PORTKEEP_QUERY"),
    ] {
        assert_eq!(u64::try_from(in_tests).unwrap(), frozen(in_header), "{name} of the tests");
        assert_eq!(constant(library, name), frozen(in_header), "{name} of the library");
    }
    assert_eq!(u64::from(client::PROCESS), frozen("PORTKEEP_GRANT_PROCESS"));
    assert_eq!(u64::from(client::DESCENDANTS), frozen("PORTKEEP_GRANT_DESCENDANTS"));
    assert_eq!(u64::from(client::SAME_NUMBERS), frozen("PORTKEEP_SAME_NUMBERS"));
    assert_eq!(constant(library, "SAME_NUMBERS"), frozen("PORTKEEP_SAME_NUMBERS"));
    assert_eq!(constant(library, "EXCLUSIVE"), frozen("PORTKEEP_HAS_EXCLUSIVE"));
    assert_eq!(constant(library, "INSTANCE_SIZE"), size("portkeep_instance"));
    assert_eq!(constant(library, "VERSION_SIZE"), size("portkeep_version"));
    assert_eq!(constant(library, "HOLDER_SIZE"), size("portkeep_holder"));
}

fn a_request_has_the_same_bytes_in_c_and_here(_: &Host) {
    let here = Request {
        start: 0x1234,
        count: 0x5678,
        grant: 0x9abc_def0,
        alignment: 0x1122,
        flags: 0x3344,
        zero: 0x5566_7788,
        grant_id: 0x99aa_bbcc_ddee_ff01,
    };
    let Some(said) = said_in_c(
        "struct portkeep_request r = { { htons(0x1234), 0x5678 }, 0x9abcdef0, 0x1122, 0x3344,\n\
         0x55667788, 0x99aabbccddeeff01 };\n\
         for (int i = 0; i < (int)sizeof(r); i++) printf(\"%02x\", ((unsigned char *)&r)[i]);\n",
    ) else {
        return;
    };
    let bytes: String = here.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said, bytes);
}

fn the_maps_have_the_sizes_that_the_loader_and_the_tests_count_on(_: &Host) {
    let loader = concat!(
        include_str!("../../src/engine/kernel/load.rs"),
        include_str!("../../src/engine/kernel/pinned.rs")
    );
    let names = maps::LAYOUTS.iter().map(|(name, _)| format!("sizeof(struct portkeep_{name})"));
    let Some(sizes) = in_c(names) else { return };
    for ((name, size), in_header) in maps::LAYOUTS.iter().zip(&sizes) {
        assert_eq!(u64::try_from(*size).unwrap(), *in_header, "struct portkeep_{name}");
    }
    let size = |of: &str| sizes[maps::LAYOUTS.iter().position(|(name, _)| *name == of).unwrap()];
    assert_eq!(constant(loader, "CONFIG_SIZE"), size("config"));
    assert_eq!(constant(loader, "RESERVATION_SIZE"), size("reservation"));
    assert_eq!(constant(loader, "TABLE_SIZE"), size("table"));
    let pool = in_c(["offsetof(struct portkeep_config, pool)", "PORTKEEP_PARTIAL"]).unwrap();
    assert_eq!(pool, [8, constant(loader, "PARTIAL")], "what the loader writes");
    // Every map of the programs is pinned, so that a later loader finds it.
    let maps = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/maps.bpf.h")).unwrap();
    let maps: Vec<_> = maps.lines().filter_map(|line| line.strip_prefix("} portkeep_")).collect();
    assert!(maps.len() >= 9, "{maps:?}");
    for map in maps {
        let name = map.trim_end_matches(" SEC(\".maps\");");
        assert!(loader.contains(&format!("\"portkeep_{name}\"")), "{name} is not pinned");
    }
}

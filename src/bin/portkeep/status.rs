//! `portkeep status`: which engine serves here, and what stands in the way of more.

use std::io::Write;
use std::process::ExitCode;

use portkeep::{EngineKind, PortRange, Status};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::guard::Guard;
use crate::terminal::bold;

/// Show the engine, the pool, and what stands in their way
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    /// The pool to look at; the engine's own when left out
    #[arg(long, value_name = "RANGE", env = "PORTKEEP_POOL")]
    pool: Option<PortRange>,
}

/// Something that could be better, and the command that makes it so.
struct Obstacle {
    what: String,
    fix: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let status = portkeep::status()?;
    let pool = args.pool.unwrap_or(status.pool);
    let obstacles = obstacles(&status, pool);
    let text = if args.json {
        format!("{:#}\n", as_json(&status, pool, &obstacles))
    } else {
        as_text(&status, pool, &obstacles)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Success.into())
}

fn obstacles(status: &Status, pool: PortRange) -> Vec<Obstacle> {
    let userspace = status.engine == EngineKind::Userspace;
    let mut obstacles = Vec::new();
    if userspace {
        obstacles.push(Obstacle {
            what:
                "under 'run', programs that set SO_REUSEADDR get in; the kernel engine would keep \
                   them out"
                    .to_owned(),
            fix: Some("portkeep load".to_owned()),
        });
    }
    if !status.exclusive {
        obstacles.push(Obstacle {
            what: "sockets created outside the control group the engine was loaded for get in"
                .to_owned(),
            fix: Some("portkeep unload && portkeep load".to_owned()),
        });
    }
    let exposed = status.ephemeral.exposed(pool);
    if exposed > 0 {
        obstacles.push(Obstacle {
            what: format!(
                "{exposed} ports of the pool are in the ephemeral range, where {}",
                if userspace {
                    "automatic assignment may take them first"
                } else {
                    "the engine reserves none"
                }
            ),
            fix: Some(format!(
                "sysctl -w net.ipv4.ip_local_reserved_ports={}",
                status.ephemeral.with(pool)
            )),
        });
    }
    let (soft, hard) = status.descriptors;
    // A few are taken by other things.
    let wanted = u64::from(pool.count()) + 64;
    if userspace && soft < wanted {
        let fix = (wanted <= hard).then(|| format!("ulimit -n {wanted}"));
        let what = format!("the descriptor limit, {soft}, is below the size of the pool");
        obstacles.push(Obstacle { what, fix });
    }
    obstacles
}

/// The engine and whom it keeps out.
fn engine(status: &Status) -> String {
    let scope = match (status.engine, status.exclusive) {
        (EngineKind::Kernel, true) => "it keeps out every stranger of this machine",
        (EngineKind::Kernel, false) => "partial, loaded for a part of the control groups only",
        _ => status.reason,
    };
    format!("{}: {scope}", status.engine)
}

fn as_text(status: &Status, pool: PortRange, obstacles: &[Obstacle]) -> String {
    let label = |name: &str| bold(&std::io::stdout(), format_args!("{name:<11}"));
    let exposed = match status.ephemeral.exposed(pool) {
        0 => "out of reach of".to_owned(),
        exposed => format!("{exposed} of them inside"),
    };
    let (soft, hard) = status.descriptors;
    let mut lines = vec![
        format!("{} {}", label("engine"), engine(status)),
        format!("{} {}", label("guard"), Guard::of(status)),
        format!(
            "{} {pool}: {} ports, {exposed} the ephemeral range {}",
            label("pool"),
            pool.count(),
            status.ephemeral.range
        ),
    ];
    if status.engine == EngineKind::Userspace {
        lines.push(format!(
            "{} {soft}, can be raised to {hard}: one for every port held",
            label("descriptors")
        ));
    }
    for Obstacle { what, fix } in obstacles {
        let fix = fix.as_ref().map_or(String::new(), |fix| format!("; '{fix}' changes that"));
        lines.push(format!("{} {what}{fix}", label("in the way")));
    }
    lines.join("\n") + "\n"
}

fn as_json(status: &Status, pool: PortRange, obstacles: &[Obstacle]) -> Value {
    let range = |range: PortRange| json!({ "start": range.start(), "count": range.count() });
    let (soft, hard) = status.descriptors;
    let guard = Guard::of(status);
    json!({
        "engine": status.engine.to_string(),
        "reason": status.reason,
        "exclusive": status.exclusive,
        "guard": { "name": guard.name(), "because": guard.because() },
        "pool": {
            "start": pool.start(),
            "count": pool.count(),
            "exposed": status.ephemeral.exposed(pool),
        },
        "ephemeral": {
            "range": range(status.ephemeral.range),
            "reserved": status.ephemeral.reserved.iter().copied().map(range).collect::<Value>(),
        },
        "descriptors": { "soft": soft, "hard": hard },
        "in_the_way": obstacles
            .iter()
            .map(|obstacle| json!({ "what": obstacle.what, "fix": obstacle.fix }))
            .collect::<Value>(),
    })
}

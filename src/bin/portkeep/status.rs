//! `portkeep status`: which engine serves here, and what stands in the way of more.

use std::io::Write;
use std::process::ExitCode;

use portkeep::{Ephemeral, PortRange, Status};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::terminal::bold;

/// Show the engine, the pool, and what stands in their way
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    /// The pool to look at
    #[arg(long, value_name = "RANGE", env = "PORTKEEP_POOL", default_value_t = portkeep::DEFAULT_POOL)]
    pool: PortRange,
}

/// Something that could be better, and the command that makes it so.
struct Obstacle {
    what: String,
    fix: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let status = portkeep::status()?;
    let obstacles = obstacles(&status, args.pool);
    let text = if args.json {
        format!("{:#}\n", as_json(&status, args.pool, &obstacles))
    } else {
        as_text(&status, args.pool, &obstacles)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Success.into())
}

fn obstacles(status: &Status, pool: PortRange) -> Vec<Obstacle> {
    let mut obstacles = vec![Obstacle {
        what: "the kernel engine, which would also keep out programs that set SO_REUSEADDR, \
               is not part of this version"
            .to_owned(),
        fix: None,
    }];
    let exposed = status.ephemeral.exposed(pool);
    if exposed > 0 {
        obstacles.push(Obstacle {
            what: format!(
                "automatic assignment may take {exposed} ports of the pool before a reservation does"
            ),
            fix: Some(format!(
                "sysctl -w net.ipv4.ip_local_reserved_ports={}",
                merged(&status.ephemeral, pool)
            )),
        });
    }
    let (soft, hard) = status.descriptors;
    // A few are taken by other things.
    let wanted = u64::from(pool.count()) + 64;
    if soft < wanted {
        let fix = (wanted <= hard).then(|| format!("ulimit -n {wanted}"));
        let what = format!("the descriptor limit, {soft}, is below the size of the pool");
        obstacles.push(Obstacle { what, fix });
    }
    obstacles
}

/// The list that keeps what is reserved already and adds the pool.
fn merged(ephemeral: &Ephemeral, pool: PortRange) -> String {
    let mut list: Vec<String> = ephemeral.reserved.iter().map(ToString::to_string).collect();
    list.push(pool.to_string());
    list.join(",")
}

fn as_text(status: &Status, pool: PortRange, obstacles: &[Obstacle]) -> String {
    let label = |name: &str| bold(&std::io::stdout(), format_args!("{name:<11}"));
    let exposed = match status.ephemeral.exposed(pool) {
        0 => "out of reach of".to_owned(),
        exposed => format!("{exposed} of them inside"),
    };
    let (soft, hard) = status.descriptors;
    let mut lines = vec![
        format!("{} {}: {}", label("engine"), status.engine, status.reason),
        format!(
            "{} {pool}: {} ports, {exposed} the ephemeral range {}",
            label("pool"),
            pool.count(),
            status.ephemeral.range
        ),
        format!(
            "{} {soft}, can be raised to {hard}: one for every port held",
            label("descriptors")
        ),
    ];
    for Obstacle { what, fix } in obstacles {
        let fix = fix.as_ref().map_or(String::new(), |fix| format!("; '{fix}' changes that"));
        lines.push(format!("{} {what}{fix}", label("in the way")));
    }
    lines.join("\n") + "\n"
}

fn as_json(status: &Status, pool: PortRange, obstacles: &[Obstacle]) -> Value {
    let range = |range: PortRange| json!({ "start": range.start(), "count": range.count() });
    let (soft, hard) = status.descriptors;
    json!({
        "engine": status.engine.to_string(),
        "reason": status.reason,
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

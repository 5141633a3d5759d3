//! The script of a batch, and what each sabotage of the projector makes of it.

use std::borrow::Cow;

use runtime::sabotage::{self, Sabotage};

const APPLY: &str = include_str!("apply.lua");

/// In a sabotage's lines: true every `n`th time, counted per partition.
const STRIKES: &str = "STRIKES";

/// Per sabotage, what stands in the script, and what comes in its place.
const EDITS: [(Sabotage, &str, &str); 8] = [
    (
        Sabotage::DropVersionFence,
        "newer = version > known or (version == known and byte(metas, at + 53) == 49)",
        "newer = true",
    ),
    (
        Sabotage::CheckpointFirst,
        "for code, ids in pairs(remove) do",
        "do local ready, partitions, base = string.match(rest, '^([01]) (%d+) %d+ (.+)$')
redis.call('SET', KEYS[1], table.concat({'1', generation, ARGV[5], history, ARGV[6], ARGV[7], run, ready, partitions, ARGV[8], base}, ' ')) end
for code, ids in pairs(remove) do",
    ),
    (
        Sabotage::FailMidway,
        "if #documents > 0 then",
        "if #documents > 0 and STRIKES then return redis.error_reply('ERR sabotage: failed midway') end
if #documents > 0 then",
    ),
    (
        Sabotage::ResurrectOnReplay,
        "redis.call('SET', tombstones[i], tombstones[i + 1], 'EX', lifetime)",
        "redis.call('DEL', tombstones[i])",
    ),
    (
        Sabotage::DeleteWithoutVersion,
        "tombstones[#tombstones + 1] = document",
        "tombstones[#tombstones + 1] = string.rep('0', 16) .. '-'",
    ),
    (
        Sabotage::CorruptValue,
        "local document = ARGV[first + i]",
        "local document = ARGV[first + i]
    if #document > 17 and STRIKES then document = string.gsub(document, '%.(%d)(%d+)Z', '.%2%1Z') end",
    ),
    (
        Sabotage::WrongDocument,
        "documents[#documents + 1] = key",
        "local last = redis.call('GETSET', KEYS[1] .. ':sabotage-last', key)
            documents[#documents + 1] = last and STRIKES and last or key",
    ),
    (
        Sabotage::SkipIndex,
        "redis.call('ZADD', prefix .. 'x:' .. code, unpack(ids))",
        "if not STRIKES then redis.call('ZADD', prefix .. 'x:' .. code, unpack(ids)) end",
    ),
];

/// The script that applies a batch; as it is, unless a sabotage is armed.
pub(super) fn apply_script() -> Cow<'static, str> {
    let mut script = Cow::Borrowed(APPLY);
    for (sabotage, there, instead) in EDITS {
        if let Some(period) = sabotage::period(sabotage) {
            script = edited(&script, sabotage, there, instead, period).into();
        }
    }
    script
}

fn edited(script: &str, sabotage: Sabotage, there: &str, instead: &str, period: u64) -> String {
    let strikes = format!("(redis.call('INCR', KEYS[1] .. ':{}') % {period} == 0)", sabotage.name());
    assert_eq!(script.matches(there).count(), 1, "{} no longer fits apply.lua", sabotage.name());
    script.replace(there, &instead.replace(STRIKES, &strikes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sabotage_fits_the_script_and_none_is_in_it_unasked() {
        assert_eq!(apply_script(), APPLY);
        let mut all = APPLY.to_owned();
        for (sabotage, there, instead) in EDITS {
            let one = edited(APPLY, sabotage, there, instead, 3);
            assert!(one != APPLY && !one.contains(STRIKES), "{}", sabotage.name());
            all = edited(&all, sabotage, there, instead, 3);
        }
    }
}

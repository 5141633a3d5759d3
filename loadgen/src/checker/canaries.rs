//! Of which partitions later writes have been seen, without knowing how many partitions there are.

use crate::document::format_uuid;

/// Most partitions that signals may have: `PARTITIONS_MAX` of the crate `contract`.
const PARTITIONS_MAX: usize = 24;

/// The partitions of the canaries that are visible, for every number of partitions that there may be: as bits.
#[derive(Debug, Default)]
pub(super) struct Canaries {
    seen: [u32; PARTITIONS_MAX],
}

impl Canaries {
    /// Takes note of a canary that has become visible.
    pub(super) fn seen(&mut self, id: u128) {
        for (seen, partition) in self.seen.iter_mut().zip(partitions(id)) {
            *seen |= partition;
        }
    }

    /// Whether one is visible that is in the entity's partition, however many there are.
    pub(super) fn overtook(&self, id: u128) -> bool {
        self.seen.iter().zip(partitions(id)).all(|(seen, partition)| seen & partition != 0)
    }
}

/// The partition of an entity as a bit, if there is one partition, if there are two, and so on.
fn partitions(id: u128) -> impl Iterator<Item = u32> {
    let place = place(id);
    (1..=PARTITIONS_MAX as u64).map(move |count| 1_u32 << (place % count))
}

/// What modulo the number of partitions is an entity's: FNV-1a, 64 bits, over the id's 36 characters, its halves folded by
/// XOR, as the relay has it.
pub(super) fn place(id: u128) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = format_uuid(id).iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash >> 32) ^ (hash & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entitys_partition_is_the_one_that_contract_says() {
        // The golden figures of contract/src/partition.rs.
        let place = place(0x0192_3456_789a_7bcd_8123_4567_89ab_cdef);
        assert_eq!([1, 2, 4, 7, 32].map(|count| place % count), [0, 1, 1, 0, 1]);
    }
}

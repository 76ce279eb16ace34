use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What happens next in a connection's one direction.
#[derive(Clone, Debug)]
enum Step {
    /// The sender sends so many bytes, or as many as it may.
    Send(u32),
    /// A packet of data arrives.
    Arrive,
    /// The receiver's reader takes so many bytes.
    Take(u32),
    /// A statement of credit arrives.
    Update,
    /// The receiver states its credit without need.
    Tell,
}

fn steps(capacity: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..=capacity + 1).prop_map(Step::Send),
        Just(Step::Arrive),
        (0..=capacity).prop_map(Step::Take),
        Just(Step::Update),
        Just(Step::Tell),
    ];
    prop::collection::vec(step, 0..300)
}

fn runs() -> impl Strategy<Value = (u32, u32, Vec<Step>)> {
    let capacity = prop_oneof![1u32..10, Just(16 << 10), Just(256 << 10), Just(u32::MAX - 1)];
    // Near the wrap, or anywhere.
    let start = prop_oneof![Just(0), (0u32..1000).prop_map(|n| u32::MAX - n), any::<u32>()];
    (capacity, start).prop_flat_map(|(c, s)| (Just(c), Just(s), steps(c)))
}

proptest! {
    /// Our receiver against our sender, over two channels that delay, beside a count that can't wrap.
    #[test]
    fn credit_is_never_exceeded_nor_lost((capacity, start, steps) in runs()) {
        let mut receiver = Receive { capacity, received: start, forwarded: start, told: start };
        let mut sender = Send { sent: start, capacity, forwarded: start };
        let (mut data, mut updates) = (VecDeque::new(), VecDeque::new());
        // The model: bytes in all.
        let (mut sent, mut arrived, mut taken) = (0u64, 0u64, 0u64);
        for step in steps {
            match step {
                Step::Send(wanted) => {
                    let length = wanted.min(sender.credit());
                    sender.sent(length as usize);
                    data.push_back(length);
                    sent += u64::from(length);
                }
                Step::Arrive => {
                    if let Some(length) = data.pop_front() {
                        prop_assert_eq!(receiver.accept(length), Ok(()));
                        arrived += u64::from(length);
                    }
                }
                Step::Take(wanted) => {
                    let length = u64::from(wanted).min(arrived - taken);
                    receiver.forward(length as usize);
                    taken += length;
                }
                Step::Update => {
                    if let Some((capacity, forwarded)) = updates.pop_front() {
                        sender.update(capacity, forwarded);
                    }
                }
                Step::Tell => updates.push_back(receiver.tell()),
            }
            prop_assert!(sent - taken <= u64::from(capacity));
            prop_assert!(u64::from(sender.credit()) <= u64::from(capacity) - (sent - taken));
        }
        // When all has been delivered and read, the sender can go on, by the receiver's own updates.
        for length in data {
            prop_assert_eq!(receiver.accept(length), Ok(()));
        }
        receiver.forward_all();
        if receiver.update_due() {
            updates.push_back(receiver.tell());
        }
        for (capacity, forwarded) in updates {
            sender.update(capacity, forwarded);
        }
        prop_assert!(sender.credit() >= capacity - capacity / 2);
        prop_assert!(!receiver.update_due());
    }

    #[test]
    fn one_byte_beyond_the_credit_is_an_overrun(capacity in 0..1u32 << 20, start: u32, first in 0..1u32 << 20) {
        let first = first.min(capacity);
        let mut receiver = Receive { capacity, received: start, forwarded: start, told: start };
        prop_assert_eq!(receiver.accept(first), Ok(()));
        prop_assert_eq!(receiver.accept(capacity - first + 1), Err(Overrun));
        prop_assert_eq!(receiver.accept(u32::MAX), Err(Overrun));
        prop_assert_eq!(receiver.accept(capacity - first), Ok(()));
    }

    #[test]
    fn whatever_the_guest_claims_its_room_is_the_limit(sent: u32, capacity: u32, forwarded: u32) {
        let mut sender = Send { sent, ..Send::default() };
        sender.update(capacity, forwarded);
        let in_flight = sent.wrapping_sub(forwarded);
        prop_assert!(u64::from(sender.credit()) + u64::from(in_flight) <= u64::from(capacity.max(in_flight)));
    }
}

#[test]
fn forwarding_that_never_came_gives_no_credit() {
    let mut sender = Send::default();
    sender.update(256 << 10, 1);
    assert_eq!(sender.credit(), 0);
}

#[test]
fn small_packets_cause_few_updates() {
    let mut receiver = Receive::new(256 << 10);
    let mut updates = 0;
    for _ in 0..16 << 10 {
        receiver.accept(64).unwrap();
        receiver.forward(64);
        if receiver.update_due() {
            receiver.tell();
            updates += 1;
        }
    }
    // A mebibyte in packets of 64 bytes: one update each 128 KiB.
    assert_eq!(updates, 7);
}

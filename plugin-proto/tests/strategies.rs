//! What the strategies generate, counted: each field of each message is set, and each value of each enum occurs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use plugin_proto::messages::{MainRequest, MainResponse, VcpuRequest, VcpuResponse};
use plugin_proto::strategies::{main_request, main_response, vcpu_request, vcpu_response};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use protobuf::reflect::{MessageDescriptor, ReflectFieldRef, ReflectValueRef, RuntimeFieldType, RuntimeType};
use protobuf::{MessageDyn, MessageFull};

/// Messages that are generated of each kind.
const CASES: usize = 4000;

/// Fields that are set, and enum values that occur, by their names, with how often.
type Counts = BTreeMap<String, usize>;

/// Enters, with 0, all that can be set in messages of this kind and in those within.
fn expect(message: &MessageDescriptor, counts: &mut Counts) {
    for field in message.fields() {
        let name = format!("{}.{}", message.full_name(), field.name());
        let (RuntimeFieldType::Singular(kind) | RuntimeFieldType::Repeated(kind)) = field.runtime_field_type() else {
            panic!("{name} is a map");
        };
        if counts.insert(name.clone(), 0).is_some() {
            continue;
        }
        match kind {
            RuntimeType::Message(within) => expect(&within, counts),
            RuntimeType::Enum(values) => {
                counts.insert(format!("{name} unknown"), 0);
                // Value 0 is not set.
                for value in values.values().filter(|value| value.value() != 0) {
                    counts.insert(format!("{name} {}", value.name()), 0);
                }
            }
            _ => {}
        }
    }
}

/// Counts what is set in `message`.
fn count(message: &dyn MessageDyn, counts: &mut Counts) {
    let about = message.descriptor_dyn();
    for field in about.fields() {
        let name = format!("{}.{}", about.full_name(), field.name());
        match field.get_reflect(message) {
            ReflectFieldRef::Optional(value) => {
                if let Some(value) = value.value() {
                    count_value(&name, &value, counts);
                }
            }
            ReflectFieldRef::Repeated(values) => {
                values.into_iter().for_each(|value| count_value(&name, &value, counts));
            }
            ReflectFieldRef::Map(_) => panic!("{name} is a map"),
        }
    }
}

fn count_value(name: &str, value: &ReflectValueRef<'_>, counts: &mut Counts) {
    *counts.get_mut(name).unwrap() += 1;
    match value {
        ReflectValueRef::Message(within) => count(&**within, counts),
        ReflectValueRef::Enum(values, number) => {
            let which = values.value_by_number(*number).map_or("unknown".into(), |value| value.name().to_owned());
            *counts.get_mut(&format!("{name} {which}")).unwrap() += 1;
        }
        _ => {}
    }
}

/// Fails where something is never set.
fn assert_all_is_generated<M: MessageFull>(strategy: &impl Strategy<Value = M>) {
    let mut runner = TestRunner::deterministic();
    let mut counts = Counts::new();
    expect(&M::descriptor(), &mut counts);
    for _ in 0..CASES {
        count(&strategy.new_tree(&mut runner).unwrap().current(), &mut counts);
    }
    let missing: Vec<_> = counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "none of {CASES} messages has these: {missing:#?}");
}

#[test]
fn main_requests_have_each_field() {
    assert_all_is_generated::<MainRequest>(&main_request());
}

#[test]
fn main_responses_have_each_field() {
    assert_all_is_generated::<MainResponse>(&main_response());
}

#[test]
fn vcpu_requests_have_each_field() {
    assert_all_is_generated::<VcpuRequest>(&vcpu_request());
}

#[test]
fn vcpu_responses_have_each_field() {
    assert_all_is_generated::<VcpuResponse>(&vcpu_response());
}

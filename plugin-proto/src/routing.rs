//! `set_irq_routing` alone, decoded without an allocation for each route.
//!
//! It is the one request that may have thousands of elements, for each of which the general decoder takes ten times what the
//! peer needs to send it.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use crate::Error;
use crate::codec::scan_error;
use crate::limits::MAX_ROUTES;
use crate::messages::MainRequest;
use crate::scan::{FieldBudget, Problem, delimited, skip, varint};

/// One route of a `set_irq_routing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The GSI.
    pub irq_id: u32,
    /// Where it leads to; `None` for one that does not say it.
    pub target: Option<RouteTarget>,
}

/// Where a GSI leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// A pin of a chip.
    Irqchip {
        /// The chip's number, as the kernel counts them.
        irqchip: u32,
        /// Its pin.
        pin: u32,
    },
    /// A message.
    Msi {
        /// Its address.
        address: u64,
        /// Its data.
        data: u32,
    },
}

/// Fields of the longest route: itself, its GSI, its target and the two numbers of that.
const ROUTE_FIELDS: usize = 5;

/// The field of `MainRequest`, which is of bytes (wire type 2).
const SET_IRQ_ROUTING: u32 = 12;

/// What a request that is a `set_irq_routing` and nothing else holds.
pub(crate) fn content(mut datagram: &[u8]) -> Option<&[u8]> {
    let is_routing = varint(&mut datagram)? == u64::from(SET_IRQ_ROUTING << 3 | 2);
    let content = delimited(&mut datagram).ok().filter(|_| is_routing)?;
    datagram.is_empty().then_some(content)
}

/// Decodes what [`Incoming::Routing`](crate::Incoming) holds. A few fields that are not known in it are skipped.
///
/// # Errors
/// [`Error::TooMany`] past [`MAX_ROUTES`], [`Error::Superfluous`], [`Error::Malformed`].
pub fn decode_routes(content: &[u8]) -> Result<Vec<Route>, Error> {
    decode(content).map_err(scan_error::<MainRequest>(content))
}

fn decode(mut rest: &[u8]) -> Result<Vec<Route>, Problem> {
    // A route that says something has four bytes, with those before it.
    let mut routes = Vec::with_capacity(MAX_ROUTES.min(rest.len() / 4));
    let mut fields = FieldBudget::new();
    while !rest.is_empty() {
        fields.take()?;
        match varint(&mut rest).ok_or(Problem::Malformed)? {
            0x0a => {
                if routes.len() >= MAX_ROUTES {
                    return Err(Problem::TooMany { outermost: SET_IRQ_ROUTING });
                }
                fields.add_element(ROUTE_FIELDS);
                routes.push(route(delimited(&mut rest)?, &mut fields)?);
            }
            tag => skip(tag, &mut rest)?,
        }
    }
    Ok(routes)
}

fn route(mut rest: &[u8], fields: &mut FieldBudget) -> Result<Route, Problem> {
    let mut route = Route::default();
    while !rest.is_empty() {
        fields.take()?;
        match varint(&mut rest).ok_or(Problem::Malformed)? {
            // As protobuf has it, of a number that is too long the low bits count.
            0x08 => route.irq_id = varint(&mut rest).ok_or(Problem::Malformed)? as u32,
            0x12 => {
                let [irqchip, pin] = two_numbers(delimited(&mut rest)?, fields)?;
                route.target = Some(RouteTarget::Irqchip { irqchip: irqchip as u32, pin: pin as u32 });
            }
            0x1a => {
                let [address, data] = two_numbers(delimited(&mut rest)?, fields)?;
                route.target = Some(RouteTarget::Msi { address, data: data as u32 });
            }
            tag => skip(tag, &mut rest)?,
        }
    }
    Ok(route)
}

fn two_numbers(mut rest: &[u8], fields: &mut FieldBudget) -> Result<[u64; 2], Problem> {
    let mut numbers = [0; 2];
    let [first, second] = &mut numbers;
    while !rest.is_empty() {
        fields.take()?;
        match varint(&mut rest).ok_or(Problem::Malformed)? {
            0x08 => *first = varint(&mut rest).ok_or(Problem::Malformed)?,
            0x10 => *second = varint(&mut rest).ok_or(Problem::Malformed)?,
            tag => skip(tag, &mut rest)?,
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::*;
    use crate::limits::MAX_REPEATED_FIELDS;
    use crate::messages::main_request::set_irq_routing::{Route as Wire, route::Route as WireTarget};

    fn wire(route: &Route) -> Wire {
        let mut wire = Wire { irq_id: route.irq_id, ..Default::default() };
        match route.target {
            Some(RouteTarget::Irqchip { irqchip, pin }) => {
                let to = wire.mut_irqchip();
                (to.irqchip, to.pin) = (irqchip, pin);
            }
            Some(RouteTarget::Msi { address, data }) => {
                let to = wire.mut_msi();
                (to.address, to.data) = (address, data);
            }
            None => {}
        }
        wire
    }

    fn request(routes: &[Route]) -> Vec<u8> {
        let mut request = MainRequest::new();
        request.mut_set_irq_routing().routes = routes.iter().map(wire).collect();
        request.write_to_bytes().unwrap()
    }

    #[test]
    fn routes_are_those_that_were_encoded() {
        let mut routes = vec![Route::default()];
        for number in [0, 1, 127, 128, u32::MAX] {
            for target in [
                RouteTarget::Irqchip { irqchip: number, pin: !number },
                RouteTarget::Msi { address: u64::from(number) << 32, data: number },
            ] {
                routes.push(Route { irq_id: number, target: Some(target) });
            }
        }
        assert_eq!(decode(content(&request(&routes)).unwrap()), Ok(routes));
        assert_eq!(decode(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_not_known_is_skipped_and_the_last_target_counts() {
        let mut route = Wire { irq_id: 7, ..Default::default() };
        route.set_irqchip(Default::default());
        let mut bytes = route.write_to_bytes().unwrap();
        bytes.extend([0x28, 0x01, 0x32, 0x02, 0xff, 0xff, 0x1a, 0x02, 0x08, 0x09]);
        let target = Some(RouteTarget::Msi { address: 9, data: 0 });
        assert_eq!(super::route(&bytes, &mut FieldBudget::new()), Ok(Route { irq_id: 7, target }));
        let merged = Wire::parse_from_bytes(&bytes).unwrap();
        assert!(matches!(merged.route, Some(WireTarget::Msi(_))));
    }

    #[test]
    fn one_route_too_many_is_told() {
        let routes = [Route::default(); MAX_ROUTES + 1];
        let too_many = request(&routes);
        assert_eq!(decode(content(&too_many).unwrap()), Err(Problem::TooMany { outermost: 12 }));
        assert_eq!(decode(content(&request(&routes[1..])).unwrap()).unwrap().len(), MAX_ROUTES);
    }

    #[test]
    fn many_superfluous_fields_are_an_error() {
        let in_a_field = |tag: u8, content: &[u8]| [&[tag, content.len() as u8][..], content].concat();
        let unknown = |count| [0x18, 0].repeat(count);
        assert!(decode(&unknown(MAX_REPEATED_FIELDS)).is_ok());
        let route = |content: &[u8]| in_a_field(0x0a, content);
        let gsi_again = route(&[0x08, 0].repeat(60));
        let chip_again = route(&in_a_field(0x12, &[0x08, 0].repeat(60)));
        for fields in [unknown(MAX_REPEATED_FIELDS + 1), gsi_again.repeat(2), chip_again.repeat(2)] {
            assert_eq!(decode(&fields), Err(Problem::Superfluous), "{fields:x?}");
        }
    }

    #[test]
    fn only_a_request_that_is_nothing_else_is_one() {
        let whole = request(&[Route { irq_id: 1, target: None }]);
        assert!(content(&whole).is_some());
        assert_eq!(content(&[&whole[..], &[0xf8, 0x3f, 0]].concat()), None);
        assert_eq!(content(&whole[..whole.len() - 1]), None);
        assert_eq!(content(&[0x92, 0x01, 0]), None);
        let inside = content(&whole).unwrap();
        assert_eq!(decode(&inside[..inside.len() - 1]), Err(Problem::Malformed));
    }
}

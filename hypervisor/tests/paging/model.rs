//! Linear-address translation, written down from Intel SDM volume 3, chapter 4, with no thought of speed.

/// The paging modes of section 4.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// 32-bit paging.
    TwoLevel,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    FourLevel,
}

/// The bits that decide, beside the mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controls {
    /// The mode.
    pub(crate) mode: Mode,
    /// CR0.WP.
    pub(crate) wp: bool,
    /// CR4.PSE, of 32-bit paging alone.
    pub(crate) pse: bool,
    /// CR4.SMEP.
    pub(crate) smep: bool,
    /// CR4.SMAP.
    pub(crate) smap: bool,
    /// IA32_EFER.NXE.
    pub(crate) nxe: bool,
    /// CR4.PGE.
    pub(crate) pge: bool,
    /// Whether there are pages of 1 GiB.
    pub(crate) huge: bool,
}

/// What is done at a linear address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Fetch,
}

/// An access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) linear: u64,
    pub(crate) kind: Kind,
    /// At CPL 3.
    pub(crate) user: bool,
    /// EFLAGS.AC.
    pub(crate) ac: bool,
}

/// A page fault's error code (section 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageFault(pub(crate) u32);

/// An entry that a translation has used: where it is, and its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) address: u64,
    pub(crate) value: u64,
    /// Whether the entry has accessed and dirty flags: the PDPTEs of PAE paging have none.
    pub(crate) flags: bool,
}

/// What came of an access.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// The entries, from the root on.
    pub(crate) used: Vec<Used>,
    /// The physical address.
    pub(crate) result: Result<u64, PageFault>,
}

/// Bits of a physical address (MAXPHYADDR).
pub(crate) const PHYSICAL_BITS: u32 = 46;

pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
pub(crate) const LARGE: u64 = 1 << 7;
pub(crate) const NX: u64 = 1 << 63;

/// One level of a mode: the lowest bit of the linear address that selects an entry, and how many bits do.
struct Level {
    shift: u32,
    bits: u32,
    /// Whether an entry can map a page here by its bit 7.
    large: bool,
    /// Whether an entry has the rights R/W, U/S and XD: the PDPTEs of PAE paging have none.
    rights: bool,
}

const fn level(shift: u32, bits: u32, large: bool, rights: bool) -> Level {
    Level { shift, bits, large, rights }
}

fn levels(controls: Controls) -> Vec<Level> {
    match controls.mode {
        Mode::TwoLevel => vec![level(22, 10, controls.pse, true), level(12, 10, false, true)],
        Mode::Pae => vec![level(30, 2, false, false), level(21, 9, true, true), level(12, 9, false, true)],
        Mode::FourLevel => vec![
            level(39, 9, false, true),
            level(30, 9, controls.huge, true),
            level(21, 9, true, true),
            level(12, 9, false, true),
        ],
    }
}

/// Bits `high` to `low`.
fn bits(high: u32, low: u32) -> u64 {
    (!0 >> (63 - high)) & (!0 << low)
}

/// Bits that must be 0 in an entry that is present (tables 4-4 to 4-6 and 4-8 to 4-20).
fn reserved(controls: Controls, level: &Level, maps_page: bool) -> u64 {
    let above = bits(51, PHYSICAL_BITS);
    let no_nx = if controls.nxe { 0 } else { NX };
    match (controls.mode, level.shift) {
        // Bits 20 to 13 are bits 39 to 32 of the address (PSE-36).
        (Mode::TwoLevel, 22) if maps_page => 1 << 21,
        (Mode::TwoLevel, _) => 0,
        (Mode::Pae, 30) => bits(63, PHYSICAL_BITS) | bits(8, 5) | bits(2, 1),
        (Mode::Pae, 21) if maps_page => bits(62, PHYSICAL_BITS) | bits(20, 13) | no_nx,
        (Mode::Pae, _) => bits(62, PHYSICAL_BITS) | no_nx,
        (Mode::FourLevel, 39) => above | LARGE | no_nx,
        (Mode::FourLevel, 30) if !controls.huge => above | LARGE | no_nx,
        (Mode::FourLevel, 30) if maps_page => above | bits(29, 13) | no_nx,
        (Mode::FourLevel, 21) if maps_page => above | bits(20, 13) | no_nx,
        (Mode::FourLevel, _) => above | no_nx,
    }
}

/// The base of the page that `entry` maps.
fn page(controls: Controls, level: &Level, entry: u64) -> u64 {
    match controls.mode {
        Mode::TwoLevel if level.shift == 22 => entry & bits(31, 22) | (entry & bits(20, 13)) << 19,
        Mode::TwoLevel => entry & bits(31, 12),
        _ => entry & bits(PHYSICAL_BITS - 1, level.shift),
    }
}

/// Translates. `read` gives the entry, of 8 or 4 bytes, at a physical address.
pub(crate) fn walk(controls: Controls, root: u64, access: Access, read: impl Fn(u64) -> u64) -> Walk {
    let mut used = Vec::new();
    let mut table = root;
    let (mut writable, mut user, mut executable) = (true, true, true);
    for level in levels(controls) {
        let index = access.linear >> level.shift & bits(level.bits - 1, 0);
        let wide = controls.mode != Mode::TwoLevel;
        let address = table + index * if wide { 8 } else { 4 };
        let entry = if wide { read(address) } else { read(address) & 0xffff_ffff };
        used.push(Used { address, value: entry, flags: level.rights });
        if entry & PRESENT == 0 {
            return Walk { used, result: Err(fault(controls, access, 0)) };
        }
        let maps_page = level.shift == 12 || level.large && entry & LARGE != 0;
        if entry & reserved(controls, &level, maps_page) != 0 {
            return Walk { used, result: Err(fault(controls, access, 1 | 1 << 3)) };
        }
        if level.rights {
            writable &= entry & WRITABLE != 0;
            user &= entry & USER != 0;
            executable &= !(wide && controls.nxe && entry & NX != 0);
        }
        if maps_page {
            let physical = page(controls, &level, entry) | access.linear & bits(level.shift - 1, 0);
            let allowed = is_allowed(controls, access, writable, user, executable);
            let result = if allowed { Ok(physical) } else { Err(fault(controls, access, 1)) };
            return Walk { used, result };
        }
        table = entry & if wide { bits(PHYSICAL_BITS - 1, 12) } else { bits(31, 12) };
    }
    unreachable!("the last level maps a page")
}

/// Section 4.6.1.
fn is_allowed(controls: Controls, access: Access, writable: bool, user_page: bool, executable: bool) -> bool {
    if access.user {
        return user_page
            && match access.kind {
                Kind::Read => true,
                Kind::Write => writable,
                Kind::Fetch => executable,
            };
    }
    let may_touch_user = !controls.smap || access.ac;
    match access.kind {
        Kind::Read => !user_page || may_touch_user,
        Kind::Write => (!user_page || may_touch_user) && (writable || !controls.wp),
        Kind::Fetch => executable && !(user_page && controls.smep),
    }
}

/// Section 4.7; `cause` has the bits P and RSVD.
fn fault(controls: Controls, access: Access, cause: u32) -> PageFault {
    let tells_fetches = controls.smep || controls.nxe && controls.mode != Mode::TwoLevel;
    PageFault(
        cause
            | u32::from(access.kind == Kind::Write) << 1
            | u32::from(access.user) << 2
            | u32::from(access.kind == Kind::Fetch && tells_fetches) << 4,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_made_of_a_page_and_an_offset() {
        let controls = Controls {
            mode: Mode::FourLevel,
            wp: true,
            pse: false,
            smep: false,
            smap: false,
            nxe: true,
            pge: false,
            huge: true,
        };
        let access = Access { linear: 0x1234, kind: Kind::Read, user: false, ac: false };
        let walk = walk(controls, 0x1000, access, |address| (address + 0x1000) | PRESENT);
        assert_eq!(walk.result, Ok(0x5000 | 0x234));
    }
}

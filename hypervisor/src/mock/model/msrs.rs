//! The MSRs of a vCPU of the mock.

use std::collections::BTreeMap;

use kvm_bindings::kvm_sregs;

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
/// `IA32_PAT` after reset: Intel SDM volume 3, section 13.12.4.
const PAT: (u32, u64) = (0x277, 0x0007_0406_0007_0406);

/// MSRs that hold a linear address, which must be canonical.
const ADDRESSES: [u32; 7] = [0x175, 0x176, 0xc000_0082, 0xc000_0083, FS_BASE, GS_BASE, 0xc000_0102];
/// MSRs that take any value: SYSENTER_CS, MISC_ENABLE, STAR, SYSCALL_MASK, TSC_AUX.
const PLAIN: [u32; 5] = [0x174, 0x1a0, 0xc000_0081, 0xc000_0084, 0xc000_0103];

/// All that there are.
pub(in crate::mock) fn indices() -> Vec<u32> {
    let mut all = vec![TSC, APIC_BASE, PAT.0, EFER];
    all.extend(PLAIN);
    all.extend(ADDRESSES);
    all.sort_unstable();
    all
}

/// Those that are no segment or control register too.
pub(in crate::mock) struct Msrs {
    values: BTreeMap<u32, u64>,
    /// The time stamp counts instructions that are executed, so that it is the same in each run.
    tsc: u64,
}

impl Default for Msrs {
    fn default() -> Self {
        let zero = PLAIN.into_iter().chain(ADDRESSES).map(|index| (index, 0));
        Self { values: zero.chain([PAT]).collect(), tsc: 0 }
    }
}

impl Msrs {
    /// An instruction was executed.
    pub(in crate::mock) fn tick(&mut self) {
        self.tsc = self.tsc.wrapping_add(1);
    }

    /// The value of one; `None` where there is no such MSR.
    pub(in crate::mock) fn get(&self, index: u32, sregs: &kvm_sregs) -> Option<u64> {
        Some(match index {
            APIC_BASE => sregs.apic_base,
            EFER => sregs.efer,
            FS_BASE => sregs.fs.base,
            GS_BASE => sregs.gs.base,
            TSC => self.tsc,
            _ => *self.values.get(&index)?,
        })
    }

    /// Sets one; `None` where there is no such MSR or it does not take the value.
    pub(in crate::mock) fn set(&mut self, index: u32, value: u64, sregs: &mut kvm_sregs) -> Option<()> {
        if ADDRESSES.contains(&index) && !is_canonical(value) {
            return None;
        }
        let place = match index {
            APIC_BASE => &mut sregs.apic_base,
            EFER => &mut sregs.efer,
            FS_BASE => &mut sregs.fs.base,
            GS_BASE => &mut sregs.gs.base,
            TSC => &mut self.tsc,
            _ => self.values.get_mut(&index)?,
        };
        *place = value;
        Some(())
    }
}

/// Whether bits 63 to 47 are all the same.
fn is_canonical(address: u64) -> bool {
    matches!(address as i64 >> 47, 0 | -1)
}

//! The first serial port, on standard input and output: the 16550 of `vm-superio`.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Read, Stdout};
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use plugin_sdk::Connection;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

/// Its eight registers.
pub(crate) const PORTS: RangeInclusive<u16> = 0x3f8..=0x3ff;
/// Bits of the interrupt enable register: for received data, for an empty transmitter.
const ENABLE_INPUT: u8 = 0x01;
const ENABLE_EMPTY: u8 = 0x02;
/// In the interrupt identification register: the transmitter is empty.
const EMPTY: u8 = 0x02;
/// The line it interrupts by.
pub(crate) const LINE: u32 = 4;

/// The port's line follows its registers, see [`Port::update_line`].
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The port, shared by the vCPUs' threads and the one that takes its input.
pub(crate) struct SerialPort {
    port: Mutex<Port>,
    /// The guest has accessed the port, so there may be room for more input.
    accessed: Condvar,
}

struct Port {
    serial: Serial<NoTrigger, NoEvents, Stdout>,
    connection: Connection,
    /// The line's level.
    is_high: bool,
}

impl SerialPort {
    /// Makes the port and the thread that serves its input until the process ends. The connection is the port's own.
    pub(crate) fn start(connection: Connection) -> Arc<Self> {
        let port = Port { serial: Serial::new(NoTrigger, io::stdout()), connection, is_high: false };
        let port = Arc::new(Self { port: Mutex::new(port), accessed: Condvar::new() });
        let input = Arc::clone(&port);
        thread::spawn(move || {
            if let Err(error) = input.take_input() {
                eprintln!("the serial port: {error}");
            }
        });
        port
    }

    /// # Errors
    /// Those of the connection.
    pub(crate) fn read(&self, port: u16) -> Result<u8, Box<dyn Error>> {
        let mut locked = self.lock();
        let value = locked.serial.read(register(port));
        locked.update_line()?;
        self.accessed.notify_one();
        Ok(value)
    }

    /// # Errors
    /// Those of standard output, and of the connection.
    pub(crate) fn write(&self, port: u16, value: u8) -> Result<(), Box<dyn Error>> {
        let mut locked = self.lock();
        locked.serial.write(register(port), value)?;
        Ok(locked.update_line()?)
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Standard input goes to the guest as it has room for it, up to the input's end.
    fn take_input(&self) -> Result<(), Box<dyn Error>> {
        for byte in io::stdin().lock().bytes() {
            let is_full = |port: &mut Port| port.serial.fifo_capacity() == 0;
            let mut locked = self.accessed.wait_while(self.lock(), is_full).unwrap_or_else(PoisonError::into_inner);
            locked.serial.enqueue_raw_bytes(&[byte?])?;
            locked.update_line()?;
        }
        Ok(())
    }
}

impl Port {
    /// The line is high as long as there is a reason to interrupt that the guest has enabled.
    fn update_line(&mut self) -> Result<(), plugin_sdk::Error> {
        let is_high = interrupts(&self.serial.state());
        if is_high != self.is_high {
            self.connection.set_irq(LINE, is_high)?;
            self.is_high = is_high;
        }
        Ok(())
    }
}

/// Whether there is input, or the transmitter is empty, and the guest wants to be interrupted by that.
fn interrupts(state: &SerialState) -> bool {
    let has_input = !state.in_buffer.is_empty() && state.interrupt_enable & ENABLE_INPUT != 0;
    let is_empty = state.interrupt_identification & EMPTY != 0 && state.interrupt_enable & ENABLE_EMPTY != 0;
    has_input || is_empty
}

/// Of one of [`PORTS`].
fn register(port: u16) -> u8 {
    (port - PORTS.start()) as u8
}

//! A program on a disk that SeaBIOS boots.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::common::{Backend, on_each_backend};
use crate::seabios::{FOLDER, pc};
use crate::shown::Shown;

on_each_backend! {
    a_program_on_the_disk_is_booted_and_uses_disk_screen_and_serial_port
    a_key_that_was_typed_is_read_by_int_0x16
}

const SECTOR: usize = 512;

/// SeaBIOS is some seconds of interpreted instructions, on the mock and where KVM interprets protected mode too.
const BOOT: Duration = Duration::from_secs(180);

/// The disk's first sector. It reads the second, writes it to the third, shows the text in it, sends back one byte that it
/// receives, and resets the PC.
#[rustfmt::skip]
const PROGRAM: [u8; 64] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0,  // xor ax, ax; mov ds, ax; mov es, ax
    0xfc, 0xbb, 0x00, 0x7e,              // cld; mov bx, TEXT
    0xb6, 0x00,                          // mov dh, 0; the BIOS has put the drive into dl
    0xb8, 0x01, 0x02,                    // mov ax, 0x0201: read one sector,
    0xb9, 0x02, 0x00, 0xcd, 0x13,        // mov cx, 2; int 0x13: the second
    0xb8, 0x01, 0x03,                    // mov ax, 0x0301: write one sector,
    0xb9, 0x03, 0x00, 0xcd, 0x13,        // mov cx, 3; int 0x13: the third
    0x89, 0xde, 0x31, 0xdb,              // mov si, bx; xor bx, bx
    0xac, 0x84, 0xc0, 0x74, 0x06,        // next: lodsb; test al, al; jz shown
    0xb4, 0x0e, 0xcd, 0x10,              // mov ah, 0x0e; int 0x10: show a character
    0xeb, 0xf5,                          // jmp next
    // shown: from here on the port is the program's alone
    0xfa, 0xba, 0xfd, 0x03,              // cli; mov dx, line status register
    0xec, 0xa8, 0x01, 0x74, 0xfb,        // wait: in al, dx; test al, 1; jz wait
    0xba, 0xf8, 0x03, 0xec, 0xee,        // mov dx, data register; in al, dx; out dx, al
    0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee,  // mov dx, 0xcf9; mov al, 6; out dx, al: reset
    0xf4,                                // hlt
];

/// The first sector of another disk. It shows the text in it, waits for a key, shows it between brackets, and resets the PC.
#[rustfmt::skip]
const KEY_PROGRAM: [u8; 44] = [
    0xfb, 0xfc, 0x31, 0xc0, 0x8e, 0xd8,  // sti; cld; xor ax, ax; mov ds, ax
    0xbe, 0x2c, 0x7c,                    // mov si, the text behind this program
    0xe8, 0x14, 0x00,                    // call show
    0xb4, 0x00, 0xcd, 0x16,              // mov ah, 0; int 0x16: wait for a key
    0xa2, 0x35, 0x7c,                    // mov [the key's place in the text], al
    0xbe, 0x34, 0x7c,                    // mov si, the second text
    0xe8, 0x07, 0x00,                    // call show
    0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee,  // mov dx, 0xcf9; mov al, 6; out dx, al: reset
    0xf4,                                // hlt
    0xac, 0x84, 0xc0, 0x74, 0x06,        // show: lodsb; test al, al; jz shown
    0xb4, 0x0e, 0xcd, 0x10,              // mov ah, 0x0e; int 0x10
    0xeb, 0xf5,                          // jmp show
    0xc3,                                // shown: ret
];

/// What that shows before the key, and after.
const KEY_TEXT: &[u8] = b"Key?\r\n \0[?]\r\n \0";

/// SeaBIOS sends a character when the next one comes, so a blank ends it.
const TEXT: &[u8] = b"Text from the second sector.\r\n \0";

fn image() -> Vec<u8> {
    let mut image = vec![0; 64 * SECTOR];
    image[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[SECTOR..SECTOR + TEXT.len()].copy_from_slice(TEXT);
    image
}

fn a_program_on_the_disk_is_booted_and_uses_disk_screen_and_serial_port(backend: Backend) {
    let disk = Shown::file("disk.img", &image());
    // Where the tests are root's, the plugin is another user.
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let writable = format!("{0}:{0}:true", disk.folder());
    let options = ["--plugin-mount", FOLDER, "--plugin-mount", &writable];
    let test = "a_program_on_the_disk_is_booted_and_uses_disk_screen_and_serial_port";
    let Some(pc) = pc(backend, "bios.bin", test, &options, &["--disk", disk.path()]) else { return };
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut running = pc.stdin(reader).start();
    running.await_line_within("Text from the second sector.\r", BOOT);
    File::from(writer).write_all(b"x").unwrap();
    let ended = running.end();
    ended.assert_success();
    assert!(ended.stdout.last().unwrap().ends_with('x'), "{ended:#?}");
    let written = fs::read(disk.path()).unwrap();
    assert_eq!(written[2 * SECTOR..3 * SECTOR], written[SECTOR..2 * SECTOR]);
}

/// The serial port stands for the keyboard: at each tick of the timer SeaBIOS looks whether something was received.
fn a_key_that_was_typed_is_read_by_int_0x16(backend: Backend) {
    let mut image = image();
    image[..KEY_PROGRAM.len()].copy_from_slice(&KEY_PROGRAM);
    image[KEY_PROGRAM.len()..][..KEY_TEXT.len()].copy_from_slice(KEY_TEXT);
    let disk = Shown::file("disk.img", &image);
    let readable = format!("{0}:{0}", disk.folder());
    let options = ["--plugin-mount", FOLDER, "--plugin-mount", &readable];
    let test = "a_key_that_was_typed_is_read_by_int_0x16";
    let Some(pc) = pc(backend, "bios.bin", test, &options, &["--disk", disk.path()]) else { return };
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut running = pc.stdin(reader).start();
    running.await_line_within("Key?\r", BOOT);
    File::from(writer).write_all(b"k").unwrap();
    running.await_line_within(" [k]\r", BOOT);
    running.end().assert_success();
}

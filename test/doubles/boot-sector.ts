/**
 * The smallest guest that writes: a boot sector that copies its own memory over the disk, 32 KiB at a time, through the BIOS,
 * and then halts. It reaches the disk through the emulated device, so QEMU's `werror` applies as it does for a real guest.
 */
const LOAD = 0x7c00
const PACKET = 0x60
const SECTORS = 64

/** Writes from sector `first` until `end` (both multiples of 64). */
export function bootSector(first: number, end: number): Buffer {
  const sector = Buffer.alloc(512)
  const u16 = (value: number) => [value & 255, value >> 8]
  const u32 = (value: number) => [...u16(value & 0xffff), ...u16(value >>> 16)]
  const position = LOAD + PACKET + 8
  sector.set([
    ...[0x31, 0xc0], //                                        xor ax, ax
    ...[0x8e, 0xd8], //                                        mov ds, ax
    ...[0xbe, ...u16(LOAD + PACKET)], //                       mov si, packet
    ...[0xb4, 0x43], //                                  next: mov ah, 0x43   (extended write)
    ...[0xb0, 0x00], //                                        mov al, 0
    ...[0xb2, 0x80], //                                        mov dl, 0x80   (first hard disk)
    ...[0xcd, 0x13], //                                        int 0x13
    ...[0x66, 0x81, 0x06, ...u16(position), ...u32(SECTORS)], // add dword [packet.lba], 64
    ...[0x66, 0x81, 0x3e, ...u16(position), ...u32(end)], //   cmp dword [packet.lba], end
    ...[0x72, 0x100 - 28], //                                  jb next
    ...[0xf4], //                                        done: hlt
    ...[0xeb, 0xfd], //                                        jmp done
  ])
  // The packet: its size, sectors, buffer 0:7c00, sector number.
  sector.set([0x10, 0, ...u16(SECTORS), ...u16(LOAD), ...u16(0), ...u32(first), 0, 0, 0, 0], PACKET)
  sector.set([0x55, 0xaa], 510)
  return sector
}

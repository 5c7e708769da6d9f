# Firmware of 64 KiB that tells whether an accelerator really runs x86 code: reset vector, protected mode, long mode with
# paging, an interrupt in long mode, CPUID. Each stage writes a byte to port 0xe9; the last exits through isa-debug-exit (0xf4).
# src/recovery/kvm-probe.ts holds what this assembles to:
#   as -o probe.o kvm-probe.s && ld -Ttext 0 --oformat binary -e 0 -o probe.bin probe.o
.intel_syntax noprefix
.code16
.org 0
start16:
  cli
  mov al, 0x10
  out 0xe9, al
  data32 lgdt cs:[gdtr - start16]
  mov eax, cr0
  or eax, 1
  mov cr0, eax
  .byte 0x66, 0xea
  .long 0xf0000 + (start32 - start16)
  .word 8
.code32
start32:
  mov ax, 16
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov esp, 0x7c00
  mov al, 0x20
  out 0xe9, al
  # page tables at 0x10000: PML4, PDPT (4 x 1 GiB through PDs of 2 MiB pages)
  cld
  mov edi, 0x10000
  xor eax, eax
  mov ecx, 0x6000/4
  rep stosd
  mov dword ptr [0x10000], 0x11003
  mov dword ptr [0x11000], 0x12003
  mov dword ptr [0x11008], 0x13003
  mov dword ptr [0x11010], 0x14003
  mov dword ptr [0x11018], 0x15003
  mov edi, 0x12000
  mov eax, 0x83
  mov ecx, 2048
1:
  mov [edi], eax
  mov dword ptr [edi+4], 0
  add eax, 0x200000
  add edi, 8
  loop 1b
  mov eax, cr4
  or eax, 0x20
  mov cr4, eax
  mov eax, 0x10000
  mov cr3, eax
  mov ecx, 0xc0000080
  rdmsr
  or eax, 0x100
  wrmsr
  mov eax, cr0
  or eax, 0x80000000
  mov cr0, eax
  .byte 0xea
  .long 0xf0000 + (start64 - start16)
  .word 24
.code64
start64:
  mov al, 0x30
  out 0xe9, al
  # what a kernel does next: own GDT, far return, a table walk, cpuid, cr4 writes, an interrupt through an IDT
  mov rsp, 0x7c00
  xor eax, eax
  mov ds, eax
  mov es, eax
  mov ss, eax
  mov rax, 24
  push rax
  mov eax, 0xf0000 + (far64 - start16)
  push rax
  .byte 0x48, 0xcb
far64:
  mov al, 0x40
  out 0xe9, al
  # IDT at 0x20000, gate 3 -> handler
  mov ecx, 0x20030
  mov eax, 0xf0000 + (handler - start16)
  mov [rcx], ax
  mov word ptr [rcx+2], 24
  mov word ptr [rcx+4], 0x8e00
  shr eax, 16
  mov [rcx+6], ax
  mov dword ptr [rcx+8], 0
  mov dword ptr [rcx+12], 0
  mov word ptr [0x21000], 0xfff
  mov qword ptr [0x21002], 0x20000
  lidt [0x21000]
  int3
  mov al, 0x60
  out 0xe9, al
  mov rax, cr3
  mov cr3, rax
  xor eax, eax
  cpuid
  mov al, 0x70
  out 0xe9, al
  mov al, 0x2a
  out 0xf4, al
2: hlt
  jmp 2b
handler:
  mov al, 0x50
  out 0xe9, al
  iretq
.balign 8
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff
  .quad 0x00cf92000000ffff
  .quad 0x00af9a000000ffff
gdtr:
  .word 31
  .long 0xf0000 + (gdt - start16)
.org 0xfff0
.code16
  .byte 0xe9
  .word (start16 - . - 2) 
.org 0xffff
  .byte 0

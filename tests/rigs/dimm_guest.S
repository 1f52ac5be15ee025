/* A guest that has a driver for DIMM slots and nothing else. It writes a character and the slot's digit to the
   serial port for what it finds: "=" there at the start, "+" has come, "!" was to go and is refused, "-" ejected.
   It refuses the first time after each start.

   It begins by PVH: 32 bits, flat, paging off, and stays so. */

        .set IDT,     0x200000
        .set STACK,   0x210000
        .set VECTOR,  0x29              /* of line 9 */
        .set SLOTS,   2

        .set SERIAL,  0x3f8
        .set ENABLE,  0x609
        .set SELECT,  0xa00
        .set SOURCE,  0xa04
        .set STATUS,  0xa08
        .set STATE,   0xa14

#include "pvh.inc"

        .macro write32 port, value
        mov $\port, %edx
        mov \value, %eax
        out %eax, %dx
        .endm

        .macro show letter              /* and the slot's digit */
        write SERIAL, \letter
        mov %ebx, %eax
        add $'0', %al
        out %al, %dx
        .endm

        .text
        .code32
        .globl start
start:  cli
        cld
        mov $STACK, %esp
        interrupts_in_32_bits IDT, VECTOR
        movl $0, refused
        movl $0x22, 0xfec00000          /* line 9 of the IO-APIC: a level interrupts processor 0 */
        movl $VECTOR + 0x8000, 0xfec00010
        movl $0x23, 0xfec00000
        movl $0, 0xfec00010
        xor %ebx, %ebx
1:      write32 SELECT, %ebx
        mov $STATE, %edx
        in %dx, %al
        test $1, %al
        jz 2f
        show '='
2:      inc %ebx
        cmp $SLOTS, %ebx
        jne 1b
        write SERIAL, '.'
        write ENABLE, 8
idle:   sti
        hlt
        jmp idle

interrupt:
        xor %ebx, %ebx
1:      write32 SELECT, %ebx
        mov $STATE, %edx
        in %dx, %al
        test $2, %al
        jz 2f
        write STATE, 2
        show '+'
        jmp 4f
2:      test $4, %al
        jz 4f
        write STATE, 4
        write32 SOURCE, $3
        cmpl $0, refused
        jne 3f
        movl $1, refused
        show '!'
        write32 STATUS, $0x82
        jmp 4f
3:      write32 STATUS, $0x84
        write STATE, 8
        show '-'
        write32 STATUS, $0
4:      inc %ebx
        cmp $SLOTS, %ebx
        jne 1b
        movl $0, 0xfee000b0             /* EOI */
        add $12, %esp                   /* back to idle without IRET, which a nested KVM may not emulate */
        jmp idle

refused:
        .long 0
        tables_of_32_bits IDT, VECTOR

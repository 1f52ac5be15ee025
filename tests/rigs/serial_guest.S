/* A guest that has a driver for the serial port of a PC and nothing else: it greets, and then sends back what it
   receives, each time it is interrupted. A "!" makes it switch the machine off, a "?" has it start again.

   It begins by PVH: 32 bits, flat, paging off, and stays so. */

        .set IDT,    0x200000
        .set STACK,  0x210000
        .set VECTOR, 0x24

        .set SERIAL, 0x3f8
        .set IER,    SERIAL + 1
        .set FCR,    SERIAL + 2         /* read: IIR */
        .set MCR,    SERIAL + 4
        .set LSR,    SERIAL + 5

#include "pvh.inc"

        .text
        .code32
        .globl start
start:  cli
        cld
        mov $STACK, %esp
        interrupts_in_32_bits IDT, VECTOR
        movl $0x18, 0xfec00000          /* line 4 of the IO-APIC: an edge interrupts processor 0 */
        movl $VECTOR, 0xfec00010
        movl $0x19, 0xfec00000
        movl $0, 0xfec00010
        mov $0x40000092, %ecx           /* a SINT is given its vector: line 4 must stay as it is */
        mov $0xf3, %eax
        xor %edx, %edx
        wrmsr
        write FCR, 0x07                 /* FIFOs, empty */
        write MCR, 0x0b
        write IER, 0x03                 /* an interrupt when there is input, or room for output */
        mov $greeting, %esi
        mov $greeting_end - greeting, %ecx
        mov $SERIAL, %edx
        rep outsb
idle:   sti
        hlt
        jmp idle

interrupt:
        mov $FCR, %edx
        in %dx, %al
        test $1, %al
        jnz done                        /* there is no cause left */
        mov $LSR, %edx
        in %dx, %al
        test $1, %al
        jz interrupt
        mov $SERIAL, %edx
        in %dx, %al
        cmp $'!', %al
        je power_off
        cmp $'?', %al
        je reset
        out %al, %dx
        jmp interrupt
power_off:
        mov $0x604, %edx
        mov $0x3400, %eax               /* SLP_TYP 5, SLP_EN */
        out %ax, %dx
        jmp done
reset:  write 0xcf9, 0x02
        write 0xcf9, 0x06
done:   movl $0, 0xfee000b0             /* EOI */
        add $12, %esp                   /* back to idle without IRET, which a nested KVM may not emulate */
        jmp idle

greeting:
        .ascii "ready\n"
greeting_end:
        tables_of_32_bits IDT, VECTOR

/* A guest of some hundred bytes: it sets up Hyper-V's SynIC, tries the hypercall page, and obeys messages.

   It begins by PVH: 32 bits, flat, paging off. Its pages, all below 4 MiB, are at the addresses below; what it
   finds out is in `results`, eight bytes for each line of the list there. Each message's first word is a
   command; each event flag is answered by a signal. It can do no more than prove the platform: real kernels
   have tests of their own. */

        .set HYPERCALLS, 0x300000       /* the hypercall page */
        .set SIMP,       0x301000
        .set SIEFP,      0x302000
        .set INPUT,      0x303000
        .set RESULTS,    0x304000
        .set IDT,        0x305000
        .set TABLES,     0x306000       /* six pages of page tables, the top one first */
        .set STACK,      0x310000

        .set VP_INDEX, 0                /* results */
        .set KNOWN, 8                   /* a signal to a connection that somebody listens to */
        .set UNKNOWN, 16                /* and to another */
        .set FLAG, 24                   /* with a flag number */
        .set POSTED, 32
        .set OTHER, 40                  /* a call that nobody knows */
        .set RDX_AFTER, 48
        .set R8_AFTER, 56
        .set INTERRUPTS, 64
        .set MESSAGES, 72
        .set TSC_HZ, 80
        .set FAULTS, 88                 /* general protection faults */
        .set READY, 96
        .set SPINS, 104
        .set LAST, 112                  /* the first word of the last message */
        .set STRAY, 120                 /* rax after an OUT to the hypercalls' port from elsewhere */

        .set READ, 128                  /* what the last read found, */
        .set READS, 136                 /* and how many there were */
        .set ADDRESS, 144               /* the second word of the last message */

        .set CONNECTION, 17
        .set CALL_PORT, 0xe4

#include "pvh.inc"

        .text
        .code32
        .globl start
start:  cli
        mov $STACK, %esp
        map_four_gib TABLES
        paging_on TABLES
        lgdt gdt_register
        ljmp $8, $long_mode

        .code64
long_mode:
        mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $IDT + 13 * 16, %edi
        mov $protection_fault, %eax
        call gate
        mov $IDT + 0xf3 * 16, %edi
        mov $interrupt, %eax
        call gate
        lidt idt_register(%rip)
        mov $0xfee000f0, %ebx           /* the local APIC on */
        movl $0x1ff, (%rbx)

        wrmsr_to 0x40000000, 0, 0x81000006      /* GUEST_OS_ID */
        wrmsr_to 0x40000001, HYPERCALLS + 1
        wrmsr_to 0x40000083, SIMP + 1
        wrmsr_to 0x40000082, SIEFP + 1
        wrmsr_to 0x40000092, 0xf3               /* SINT2 */
        wrmsr_to 0x40000080, 1                  /* SCONTROL */
        mov $0x40000002, %ecx
        rdmsr
        mov %eax, RESULTS + VP_INDEX
        mov $0x40000022, %ecx
        rdmsr
        mov %eax, RESULTS + TSC_HZ
        mov %edx, RESULTS + TSC_HZ + 4
        mov $0x400000ff, %ecx                   /* there is none */
        rdmsr
        mov $0x40000002, %ecx                   /* and this one cannot be written */
        wrmsr

        mov $HYPERCALLS, %ebx
        mov $0x1005d, %ecx
        mov $CONNECTION, %edx
        mov $0x1111, %r8d
        call *%rbx
        mov %rax, RESULTS + KNOWN
        mov %rdx, RESULTS + RDX_AFTER
        mov %r8, RESULTS + R8_AFTER
        mov $0x1005d, %ecx
        mov $0x777, %edx
        call *%rbx
        mov %rax, RESULTS + UNKNOWN
        mov $0x1005d, %ecx
        mov $0x300000000 + CONNECTION, %rdx
        call *%rbx
        mov %rax, RESULTS + FLAG
        mov $0x5c, %ecx
        mov $INPUT, %edx
        call *%rbx
        mov %rax, RESULTS + POSTED
        mov $0x99, %ecx
        call *%rbx
        mov %rax, RESULTS + OTHER
        mov $0x55, %eax
        out %al, $CALL_PORT
        mov %rax, RESULTS + STRAY
        movq $1, RESULTS + READY
idle:   sti
        hlt
        jmp idle

gate:   /* an interrupt gate at edi, to the code at eax */
        mov %ax, (%rdi)
        movw $8, 2(%rdi)
        movw $0x8e00, 4(%rdi)
        shr $16, %eax
        mov %ax, 6(%rdi)
        ret

protection_fault:       /* the next instruction: those that fault here have two bytes */
        incq RESULTS + FAULTS
        add $8, %rsp
        addq $2, (%rsp)
        iretq

interrupt:
        push %rax
        push %rcx
        push %rdx
        push %rbx
        incq RESULTS + INTERRUPTS
        lock btrl $1, SIEFP + 0x200
        jnc 1f
        call signal
1:      cmpl $0, SIMP + 0x200
        je done
        incq RESULTS + MESSAGES
        mov SIMP + 0x210, %eax
        mov %eax, RESULTS + LAST
        mov SIMP + 0x214, %eax
        mov %eax, RESULTS + ADDRESS
        movl $0, SIMP + 0x200
        mfence
        testb $1, SIMP + 0x205
        jz 1f
        wrmsr_to 0x40000084, 0                  /* EOM */
1:      mov RESULTS + LAST, %eax
        cmp $1, %eax
        je signal_and_done
        cmp $2, %eax
        je spin
        cmp $3, %eax
        je keyboard_reset
        cmp $4, %eax
        je power_off
        cmp $5, %eax
        je triple_fault
        cmp $6, %eax
        je crash
        cmp $7, %eax
        je read
        cmp $8, %eax
        je exits
        cmp $9, %eax
        je doorbells
        cmp $10, %eax
        je hyperv_reset
        cmp $11, %eax
        je report
done:   mov $0xfee000b0, %ebx                   /* EOI */
        movl $0, (%rbx)
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        iretq

signal: mov $HYPERCALLS, %ebx
        mov $0x1005d, %ecx
        mov $CONNECTION, %edx
        jmp *%rbx
signal_and_done:
        call signal
        jmp done
spin:   incq RESULTS + SPINS
        jmp spin
keyboard_reset:
        mov $0xfe, %al
        out %al, $0x64
        jmp done
power_off:
        mov $0x3400, %eax                       /* SLP_TYP 5, SLP_EN */
        mov $0x604, %edx
        out %ax, %dx
        jmp done
read:   mov RESULTS + ADDRESS, %ebx
        mov (%rbx), %rax
        mov %rax, RESULTS + READ
        incq RESULTS + READS
        jmp done
exits:  mov RESULTS + ADDRESS, %ecx             /* so many OUTs to a port where nothing is */
1:      out %al, $0xe8
        loop 1b
        incq RESULTS + READS
        jmp done
doorbells:
        push %rdi
        mov RESULTS + ADDRESS, %edi             /* so many signals that somebody listens to */
1:      call signal
        dec %edi
        jnz 1b
        pop %rdi
        incq RESULTS + READS
        jmp done
hyperv_reset:
        wrmsr_to 0x40000003, 1
        jmp done
report: push %r8                                /* one page that the guest does not need */
        movq $2, INPUT + 0x200
        mov RESULTS + ADDRESS, %eax
        mov %rax, INPUT + 0x208
        mov $HYPERCALLS, %ebx
        mov $0x100008003, %rcx
        mov $INPUT + 0x200, %edx
        xor %r8d, %r8d
        call *%rbx
        mov %rax, RESULTS + READ
        pop %r8
        incq RESULTS + READS
        jmp done
triple_fault:
        lidt nothing(%rip)
        ud2
crash:  movl $0x6e61770a, INPUT + 0x100         /* "\nwanted" */
        movl $0x00646574, INPUT + 0x104
        wrmsr_to 0x40000100, 1
        wrmsr_to 0x40000101, 2
        wrmsr_to 0x40000102, 3
        wrmsr_to 0x40000103, INPUT + 0x100
        wrmsr_to 0x40000104, 7
        wrmsr_to 0x40000105, 0, 0xc0000000
        jmp done

        .align 8
gdt:    .quad 0
        .quad 0x00209a0000000000                /* code of 64 bits */
        .quad 0x0000920000000000                /* data */
gdt_register:
        .word gdt_register - gdt - 1
        .long gdt
        .align 8
idt_register:
        .word 0xfff
        .quad IDT
nothing:
        .word 0
        .quad 0

/* A hostile kernel: it starts all processors, and each of them does what MEMBER names, without end.

   It begins by PVH: 32 bits, flat, paging off. The first processor sets up the tables and the hypercall page and
   starts the others; then each one is at MEMBER in 64 bits, with its number in r15 and a stack of its own. An
   instruction of two bytes that causes a protection fault, such as WRMSR, is passed over. Interrupts are
   acknowledged and forgotten. */

        .set GUEST_PAGES, 0x300000      /* the hypercall page */
        .set INPUT,      0x303000
        .set IDT,        0x305000
        .set TABLES,     0x306000       /* six pages of page tables, the top one first */
        .set STACKS,     0x320000       /* a page for each processor */
        .set PAGES,      0x400000       /* for SynICs: 64 KiB for each processor */
        .set TRAMPOLINE, 0x8000
        .set LOCAL_APIC, 0xfee00000
        .set ABSENT,     0xd0000000     /* where no memory is */

        .set CONNECTION, 17
        .set MESSAGES, 1
        .set COM1, 0x3f8

#include "pvh.inc"

        .text
        .code32
        .globl start
start:  cli
        map_four_gib TABLES
        mov $trampoline, %esi
        mov $TRAMPOLINE, %edi
        mov $trampoline_end - trampoline, %ecx
        rep movsb
to_64:  lgdt gdt_register
        mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        paging_on TABLES
        ljmp $8, $long_mode

        .code16
trampoline:
        cli
        xor %ax, %ax
        mov %ax, %ds
        lgdtl TRAMPOLINE + (gdt_of_trampoline - trampoline)
        mov %cr0, %eax
        or $1, %eax
        mov %eax, %cr0
        mov $16, %ax
        mov %ax, %ds                    /* beyond 64 KiB */
        ljmpl $0x18, $to_64
        .align 8
gdt_of_trampoline:
        .word 31
        .long gdt
trampoline_end:

        .code64
long_mode:
        mov $1, %r15d
        lock xadd %r15, processors
        mov %r15d, %eax
        shl $12, %eax
        lea STACKS + 0x1000(%eax), %esp
        test %r15, %r15
        jnz 2f
        mov $IDT + 32 * 16, %edi        /* the first processor is alone up to here */
1:      mov $interrupt, %eax
        call gate
        cmp $IDT + 256 * 16, %edi
        jne 1b
        mov $IDT + 13 * 16, %edi
        mov $protection_fault, %eax
        call gate
        wrmsr_to 0x40000000, 0, 0x81000006      /* GUEST_OS_ID */
        wrmsr_to 0x40000001, GUEST_PAGES + 1
2:      lidt idt_register
        mov $LOCAL_APIC, %ebx
        movl $0x1ff, 0xf0(%rbx)
        test %r15, %r15
        jnz MEMBER
        movl $0xc4500, 0x300(%rbx)      /* INIT to all others */
        mov $1000, %ecx
1:      loop 1b
        movl $0xc4600 + TRAMPOLINE / 4096, 0x300(%rbx)
        jmp MEMBER

gate:   mov %ax, (%rdi)
        movw $8, 2(%rdi)
        movw $0x8e00, 4(%rdi)
        shr $16, %eax
        mov %ax, 6(%rdi)
        add $16, %edi
        ret
protection_fault:
        add $8, %rsp
        addq $2, (%rsp)
        iretq
interrupt:
        push %rbx
        mov $LOCAL_APIC, %ebx
        movl $0, 0xb0(%rbx)             /* EOI */
        pop %rbx
        iretq

/* what each processor does */

outs:   out %al, $0xe8
        jmp outs

reads:  in $0xe8, %eax
        jmp reads

console:
        mov $COM1, %edx
        mov $'x', %al
1:      out %al, %dx
        jmp 1b

console_in:                             /* a line that rises and falls, and every register read */
        mov $COM1 + 4, %edx             /* loopback */
        mov $0x10, %al
        out %al, %dx
1:      mov $COM1 + 1, %edx
        mov $0x0f, %al
        out %al, %dx
        mov $COM1, %edx
        out %al, %dx
        in %dx, %al
        mov $COM1 + 2, %edx
        in %dx, %al
        mov $COM1 + 1, %edx
        xor %eax, %eax
        out %al, %dx
        mov $COM1 + 6, %edx
        in %dx, %eax
        jmp 1b

long_strings:
        test $1, %r15
        jnz long_reads
1:      mov $COM1, %edx
        mov $0x200000, %esi
        mov $0x100000, %ecx
        rep outsb
        mov $0x200000, %esi
        mov $0x10000, %ecx
        rep outsl
        jmp 1b
long_reads:
        mov $COM1, %edx
        mov $PAGES, %edi
        mov $0x10000, %ecx
        rep insb
        mov $COM1, %edx
        mov $PAGES, %edi
        mov $0x10000, %ecx
        rep insl
        jmp long_reads

clock:  mov $0, %al
        out %al, $0x70
        in $0x71, %al
        mov $0x0a, %al
        out %al, $0x70
        in $0x71, %al
        jmp clock

absent_memory:
        mov $ABSENT, %ebx
1:      mov (%rbx), %rax
        mov %rax, 8(%rbx)
        jmp 1b

absent_strings:                         /* from absent memory to absent memory, and ports */
1:      mov $ABSENT, %esi
        mov $ABSENT + 0x100000, %edi
        mov $0x10000, %ecx
        rep movsb
        mov $ABSENT, %esi
        mov $COM1, %edx
        mov $0x1000, %ecx
        rep outsb
        jmp 1b

vectors:                                /* each write is another table of interrupts for KVM */
        xor %ebx, %ebx
1:      inc %ebx
        mov %ebx, %ecx
        and $0x0f, %ecx
        add $0x40000090, %ecx
        mov %ebx, %eax
        or $0x40, %al
        movzbl %al, %eax
        xor %edx, %edx
        wrmsr
        jmp 1b

pages:  shl $16, %r15d                  /* where they are, and outside of memory */
        xor %ebx, %ebx
1:      inc %ebx
        mov %ebx, %eax
        and $0x0f, %eax
        shl $12, %eax
        lea PAGES + 1(%r15d, %eax), %eax
        xor %edx, %edx
        mov $0x40000083, %ecx           /* SIMP */
        wrmsr
        mov $0x40000082, %ecx           /* SIEFP */
        wrmsr
        mov $0x40000021, %ecx           /* reference TSC */
        wrmsr
        mov $0x40000001, %ecx           /* the hypercall page */
        wrmsr
        mov $0x40000073, %ecx           /* VP assist */
        wrmsr
        mov $1, %edx
        mov $0x40000083, %ecx
        wrmsr
        mov $0x40000001, %ecx
        wrmsr
        wrmsr_to 0x40000080, 1
        jmp 1b

ends_of_message:
        mov $0x40000084, %ecx
1:      wrmsr
        jmp 1b

absent_registers:
        mov $0x400000ff, %ecx
1:      rdmsr
        wrmsr
        jmp 1b

times:  mov $0x40000020, %ecx           /* reference count, or a protection fault */
        rdmsr
        mov $0x40000022, %ecx
        rdmsr
        jmp times

calls:  mov $GUEST_PAGES, %ebx
        xor %r12d, %r12d
1:      inc %r12d
        movzbl %r12b, %ecx
        mov $INPUT, %edx
        xor %r8d, %r8d
        call *%rbx
        mov $0x5c, %ecx                 /* a message of noise */
        mov $INPUT, %edx
        movl $MESSAGES, INPUT
        movl $1, INPUT + 8
        movl $240, INPUT + 12
        mov %r12d, INPUT + 16
        call *%rbx
        jmp 1b

contacts:                               /* contact and unload: each is answered by a message */
        mov $GUEST_PAGES, %ebx
        movl $MESSAGES, INPUT
        movl $1, INPUT + 8
        movl $40, INPUT + 12
        movl $0x40000, INPUT + 24       /* 4.0 */
1:      movl $14, INPUT + 16
        mov $0x5c, %ecx
        mov $INPUT, %edx
        call *%rbx
        movl $3, INPUT + 16             /* request offers */
        mov $0x5c, %ecx
        mov $INPUT, %edx
        call *%rbx
        movl $16, INPUT + 16            /* unload */
        mov $0x5c, %ecx
        mov $INPUT, %edx
        call *%rbx
        jmp 1b

with_synic:                             /* pages and an interrupt, then contacts and vectors */
        shl $16, %r15d
        mov $0x40000083, %ecx
        lea PAGES + 1(%r15d), %eax
        xor %edx, %edx
        wrmsr
        mov $0x40000082, %ecx
        lea PAGES + 0x1001(%r15d), %eax
        wrmsr
        wrmsr_to 0x40000092, 0xf3
        wrmsr_to 0x40000080, 1
        sti
        test %r15, %r15
        jz contacts
        jmp vectors

free_pages:                             /* 511 ranges of 2 MiB, over all memory and beyond */
        mov $GUEST_PAGES, %ebx
        mov %r15d, %ebp
        shl $12, %ebp
        add $PAGES, %ebp
        movq $2, (%rbp)
        xor %ecx, %ecx
        mov $0x800, %eax                /* page 0x800, of 2 MiB: the sizes are bit 11 and the count */
        shl $12, %rax
        or $0x800, %rax
1:      mov %rax, 8(%rbp, %rcx, 8)
        add $0x200000, %rax
        inc %ecx
        cmp $511, %ecx
        jne 1b
1:      mov $511, %ecx
        shl $32, %rcx
        or $0x8003, %rcx
        mov %ebp, %edx
        xor %r8d, %r8d
        call *%rbx
        jmp 1b

doorbells:
        mov $GUEST_PAGES, %ebx
1:      mov $0x1005d, %ecx
        mov $CONNECTION, %edx
        call *%rbx
        jmp 1b

wrong_doorbells:
        mov $GUEST_PAGES, %ebx
1:      mov $0x1005d, %ecx
        mov $777, %edx
        call *%rbx
        jmp 1b

interrupts:                             /* to all processors, from all processors, and a timer at its fastest */
        mov $0x34, %al
        out %al, $0x43
        mov $1, %al
        out %al, $0x40
        xor %eax, %eax
        out %al, $0x40
        mov $LOCAL_APIC, %ebx
        movl $0xb, 0x3e0(%rbx)
        movl $0x20050, 0x320(%rbx)
        movl $1, 0x380(%rbx)
        sti
1:      movl $0x800f3, 0x300(%rbx)
        jmp 1b

crashes:
        wrmsr_to 0x40000103, 0x200000
        wrmsr_to 0x40000104, -1, -1
1:      wrmsr_to 0x40000105, 0, 0xc0000000
        jmp 1b

resets: /* by all ways at once */
        mov %r15d, %eax
        and $3, %eax
        jz 1f
        dec %eax
        jz 2f
        dec %eax
        jz 3f
        lidt nothing
        ud2
1:      mov $0xfe, %al
        out %al, $0x64
        jmp 1b
2:      mov $0xcf9, %edx
        mov $0x0e, %al
        out %al, %dx
        jmp 2b
3:      wrmsr_to 0x40000003, 1
        jmp 3b

triple_faults:
        lidt nothing
        ud2

computes:
        jmp computes

halts:  cli
        hlt
        jmp halts

sleeps_in_power_management:
        mov $0x604, %edx                /* every type of sleep that is not off */
        mov $0x2000, %eax
        out %ax, %dx
        in %dx, %ax
        mov $0x600, %edx
        in %dx, %eax
        out %eax, %dx
        jmp sleeps_in_power_management

everything:                             /* each processor another one */
        cmp $1, %r15d
        je vectors
        cmp $2, %r15d
        je console
        cmp $3, %r15d
        je calls
        cmp $4, %r15d
        je pages
        cmp $5, %r15d
        je ends_of_message
        cmp $6, %r15d
        je long_strings
        cmp $7, %r15d
        je free_pages
        jmp doorbells

        .align 8
processors:
        .quad 0
gdt:    .quad 0
        .quad 0x00209a0000000000                /* code of 64 bits */
        .quad 0x00cf92000000ffff                /* data */
        .quad 0x00cf9a000000ffff                /* code of 32 bits */
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

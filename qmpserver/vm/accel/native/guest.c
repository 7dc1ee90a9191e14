/*
 * The machine code of the built-in guest `dirty`, and the firmware page that starts it on a PC.
 *
 * To the host both are data: bytes that are copied to guest memory. They are written in assembly, so that the
 * same instructions come out whatever the compiler and its flags. Other assemblers than x86's leave both empty:
 * the software accelerator runs guest_dirty_next() instead.
 */
#include "guest.h"

#include <stddef.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

/* The control block's fields, as the assembly writes them. */
#define BASE "(%rdi)"
#define PAGES "8(%rdi)"
#define PATTERN "16(%rdi)"
#define INTERVAL "24(%rdi)"
#define SEED "32(%rdi)"
#define PROGRESS "40(%rdi)"

_Static_assert(GUEST_CONTROL + GUEST_MAX_VCPUS * 4096 <= GUEST_SETS, "control blocks");
_Static_assert(offsetof(struct dirty_guest, base) == 0, "BASE");
_Static_assert(offsetof(struct dirty_guest, pages) == 8, "PAGES");
_Static_assert(offsetof(struct dirty_guest, pattern) == 16, "PATTERN");
_Static_assert(offsetof(struct dirty_guest, interval) == 24, "INTERVAL");
_Static_assert(offsetof(struct dirty_guest, seed) == 32, "SEED");
_Static_assert(offsetof(struct dirty_guest, progress) == 40, "PROGRESS");

/*
 * The guest. No stack, no calls, no interrupts; it never ends.
 *
 *   rdi  control block         r8   progress        r9   page of the next sequential store
 *   r10  random state          r11  its factor      r12  clock at which the next paced store is due
 *   rbx  interval              rsi  pages
 *
 * There are two loops: the usual one, which looks at the control block before every store, and a tight one
 * for sequential stores at full speed, left after 256 of them or at the end of the set.
 */
#ifdef __x86_64__
__asm__(
	".pushsection .rodata\n"
	".balign 64\n"
	".globl guest_dirty_code\n"
	".globl guest_dirty_code_end\n"
	".code64\n"
"guest_dirty_code:\n"
	"mov	" PROGRESS ", %r8\n"
	"xor	%r9d, %r9d\n"
	"mov	" SEED ", %r10\n"
	"movabs	$" TEXT(GUEST_RANDOM_FACTOR) ", %r11\n"
	"xor	%r12d, %r12d\n"

"10:\n"	/* before each store, or each batch of the tight loop */
	"mov	" PAGES ", %rsi\n"
	"mov	" INTERVAL ", %rbx\n"
	"test	%rbx, %rbx\n"
	"jnz	40f\n"
"11:\n"	/* the store is due */
	"mov	" PATTERN ", %rax\n"
	"cmp	$" TEXT(GUEST_RANDOM) ", %rax\n"
	"jae	30f\n"

	/* sequential */
	"xor	%eax, %eax\n"
	"cmp	%rsi, %r9\n"
	"cmovae	%rax, %r9\n"
	"test	%rbx, %rbx\n"
	"jz	20f\n"
	"mov	%r9, %rdx\n"
	"inc	%r9\n"

"12:\n"	/* store to page rdx */
	"shl	$12, %rdx\n"
	"add	" BASE ", %rdx\n"
	"incq	(%rdx)\n"
	"inc	%r8\n"
	"mov	%r8, " PROGRESS "\n"
	"jmp	10b\n"

	/* The tight loop: rcx stores from page r9 on. */
"20:\n"
	"mov	%r9, %rdx\n"
	"shl	$12, %rdx\n"
	"add	" BASE ", %rdx\n"
	"mov	%rsi, %rcx\n"
	"sub	%r9, %rcx\n"
	"mov	$256, %eax\n"
	"cmp	%rax, %rcx\n"
	"cmova	%rax, %rcx\n"
	"add	%rcx, %r9\n"
	".balign 32, 0x90\n"
"21:\n"
	"incq	(%rdx)\n"
	"inc	%r8\n"
	"mov	%r8, " PROGRESS "\n"
	"add	$4096, %rdx\n"
	"dec	%rcx\n"
	"jnz	21b\n"
	"jmp	10b\n"

	/* The random patterns: the next number of xorshift64* to rax. */
"30:\n"
	"mov	%r10, %rdx\n"
	"shr	$12, %rdx\n"
	"xor	%rdx, %r10\n"
	"mov	%r10, %rdx\n"
	"shl	$25, %rdx\n"
	"xor	%rdx, %r10\n"
	"mov	%r10, %rdx\n"
	"shr	$27, %rdx\n"
	"xor	%rdx, %r10\n"
	"cmp	$" TEXT(GUEST_RANDOM) ", %rax\n"
	"mov	%r10, %rax\n"
	"ja	31f\n"
	"imul	%r11, %rax\n"
	"mul	%rsi\n"
	"jmp	12b\n"

	/* Hot spot: rcx a tenth of the set; then ten times the number, its high half says which part. */
"31:\n"
	"mov	$10, %ebp\n"
	"mov	%rsi, %rax\n"
	"xor	%edx, %edx\n"
	"div	%rbp\n"
	"mov	%rax, %rcx\n"
	"mov	%r10, %rax\n"
	"imul	%r11, %rax\n"
	"mul	%rbp\n"
	"cmp	$9, %rdx\n"
	"jae	32f\n"
	"mul	%rcx\n"
	"jmp	12b\n"
"32:\n"
	"sub	%rcx, %rsi\n"
	"mul	%rsi\n"
	"add	%rcx, %rdx\n"
	"jmp	12b\n"

	/* Wait until the store is due. A new interval holds at once, however long the old one was. */
"40:\n"
	"rdtsc\n"
	"shl	$32, %rdx\n"
	"or	%rdx, %rax\n"
	"mov	%rax, %rcx\n"
	"sub	%r12, %rcx\n"
	"jns	41f\n"
	"pause\n"
	"cmp	%rbx, " INTERVAL "\n"
	"je	40b\n"
	"xor	%r12d, %r12d\n"
	"jmp	10b\n"
"41:\n"	/* late by rcx: after a pause go on from now, rather than make up for it in a burst */
	"imul	$" TEXT(GUEST_MAX_LATE) ", %rbx, %rdx\n"
	"cmp	%rdx, %rcx\n"
	"cmova	%rax, %r12\n"
	"add	%rbx, %r12\n"
	"jmp	11b\n"
"guest_dirty_code_end:\n"
	".popsection\n"
);

/*
 * The last page of a firmware image. A PC shows it twice: below 4 GiB, where the first processor starts, and
 * below 1 MiB, where real mode reaches it and where the others are sent. It expects the image of the guest's
 * memory, all control blocks included, in the ROM right before it. The first processor copies that to its
 * place; then each goes to the guest with the control block of its own APIC ID. One that has none (no
 * pages), halts.
 *
 * Descriptors in ROM have their accessed bit set, or the processor would try to.
 */
#define ROM_TOP "0xfffff000"
#define LOW_TOP "0xff000"
#define SIPI_VECTOR "ff"
#define OFFSET(label) #label " - guest_boot_page"
#define LINEAR(label) LOW_TOP " + " OFFSET(label)
#define IMAGE_SIZE "(" TEXT(GUEST_CONTROL) " + " TEXT(GUEST_BOOT_VCPUS) " * 4096 - " TEXT(GUEST_IMAGE) ")"

__asm__(
	".pushsection .rodata\n"
	".balign 64\n"
	".globl guest_boot_page\n"
	".globl guest_boot_page_end\n"
"guest_boot_page:\n"

	/* Processors woken by the first one start here, in real mode, as ff00:0000. */
	".code16\n"
	"xorl	%ebp, %ebp\n"
"50:\n"	/* ebp: 1 on the first processor */
	"cli\n"
	"lgdtl	%cs:" OFFSET(boot_gdt_register) "\n"
	"movl	%cr0, %eax\n"
	"orb	$1, %al\n"
	"movl	%eax, %cr0\n"
	"ljmpl	$0x08, $" LINEAR(boot_protected) "\n"
"boot_first:\n"
	"movl	$1, %ebp\n"
	"jmp	50b\n"

	".code32\n"
"boot_protected:\n"
	"movl	$0x10, %eax\n"
	"movl	%eax, %ds\n"
	"movl	%eax, %es\n"
	"movl	%eax, %ss\n"
	"testl	%ebp, %ebp\n"
	"jz	60f\n"
	"cld\n"
	"movl	$" ROM_TOP " - " IMAGE_SIZE ", %esi\n"
	"movl	$" TEXT(GUEST_IMAGE) ", %edi\n"
	"movl	$" IMAGE_SIZE " / 4, %ecx\n"
	"rep movsl\n"

	/* Enable the local APIC, then INIT, a pause, and SIPI twice, to all but self. */
	"movl	$0xfee00000, %ebx\n"
	"movl	$0x1ff, 0xf0(%ebx)\n"
	"movl	$0xc4500, 0x300(%ebx)\n"
	"movl	$10000, %ecx\n"
"51:\n"
	"pause\n"
	"loop	51b\n"
	"movl	$0xc46" SIPI_VECTOR ", 0x300(%ebx)\n"
	"movl	$1000, %ecx\n"
"52:\n"
	"pause\n"
	"loop	52b\n"
	"movl	$0xc46" SIPI_VECTOR ", 0x300(%ebx)\n"

"60:\n"	/* to edi the control block of this APIC ID */
	"movl	$1, %eax\n"
	"cpuid\n"
	"shrl	$24, %ebx\n"
	"cmpl	$" TEXT(GUEST_BOOT_VCPUS) ", %ebx\n"
	"jae	61f\n"
	"shll	$12, %ebx\n"
	"leal	" TEXT(GUEST_CONTROL) "(%ebx), %edi\n"
	"cmpl	$0, 8(%edi)\n"
	"jne	62f\n"
"61:\n"
	"hlt\n"
	"jmp	61b\n"

"62:\n"	/* long mode: PAE, the tables, EFER.LME, paging */
	"movl	$0x20, %eax\n"
	"movl	%eax, %cr4\n"
	"movl	$" TEXT(GUEST_IMAGE) ", %eax\n"
	"movl	%eax, %cr3\n"
	"movl	$0xc0000080, %ecx\n"
	"xorl	%edx, %edx\n"
	"movl	$0x100, %eax\n"
	"wrmsr\n"
	"movl	$0x80050033, %eax\n"
	"movl	%eax, %cr0\n"
	"ljmpl	$0x18, $" LINEAR(boot_long) "\n"

	".code64\n"
"boot_long:\n"
	"movl	$0x2b, %eax\n"
	"movl	%eax, %ds\n"
	"movl	%eax, %es\n"
	"movl	$" LINEAR(boot_frame) ", %esp\n"
	"iretq\n"

	".balign 8\n"
"boot_frame:\n"	/* for iretq: rip, cs, rflags with IOPL 3, rsp, ss */
	".quad	" TEXT(GUEST_CODE) ", 0x33, 0x3002, 0, 0x2b\n"
"boot_gdt:\n"
	".quad	0\n"
	".quad	0x00cf9b000000ffff\n"	/* 08: 32-bit code */
	".quad	0x00cf93000000ffff\n"	/* 10: data */
	".quad	0x00af9b000000ffff\n"	/* 18: 64-bit code */
	".quad	0\n"
	".quad	0x00cff3000000ffff\n"	/* 28: data for CPL 3 */
	".quad	0x00affb000000ffff\n"	/* 30: 64-bit code for CPL 3 */
"boot_gdt_register:\n"
	".word	boot_gdt_register - boot_gdt - 1\n"
	".long	" LINEAR(boot_gdt) "\n"

	/* The reset vector, in real mode: take the copy below 1 MiB. */
	".org	guest_boot_page + 0xff0\n"
	".code16\n"
	"ljmpw	$0xff00, $" OFFSET(boot_first) "\n"
	".org	guest_boot_page + 0x1000\n"
"guest_boot_page_end:\n"
	".code64\n"
	".popsection\n"
);
#else
__asm__(
	".pushsection .rodata\n"
	".globl guest_dirty_code, guest_dirty_code_end, guest_boot_page, guest_boot_page_end\n"
"guest_dirty_code:\n"
"guest_dirty_code_end:\n"
"guest_boot_page:\n"
"guest_boot_page_end:\n"
	".popsection\n"
);
#endif

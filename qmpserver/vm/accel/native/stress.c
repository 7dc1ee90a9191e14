/*
 * The machine code of the built-in guest `stress`. To the host it is data, as that of `dirty` (guest.c), and empty
 * where the assembler is not x86's.
 */
#include "stress.h"

#include <stddef.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

/* The control block's fields, as the assembly writes them. */
#define BASE "(%rdi)"
#define PAGES "8(%rdi)"
#define TICKS_PER_MS "16(%rdi)"
#define EPOCH_MS "24(%rdi)"
#define NOW_END "32(%rdi)"
#define TOOK_END "40(%rdi)"
#define LINE_END "48(%rdi)"
#define LOCK TEXT(STRESS_CONTROL) " + 56"
#define LINE "64(%rdi)"

_Static_assert(STRESS_CONTROL + STRESS_MAX_VCPUS * 4096 <= GUEST_SETS, "control blocks");
_Static_assert(STRESS_DATA == GUEST_CONTROL, "data");
_Static_assert(offsetof(struct stress_guest, base) == 0, "BASE");
_Static_assert(offsetof(struct stress_guest, pages) == 8, "PAGES");
_Static_assert(offsetof(struct stress_guest, ticks_per_ms) == 16, "TICKS_PER_MS");
_Static_assert(offsetof(struct stress_guest, epoch_ms) == 24, "EPOCH_MS");
_Static_assert(offsetof(struct stress_guest, now_end) == 32, "NOW_END");
_Static_assert(offsetof(struct stress_guest, took_end) == 40, "TOOK_END");
_Static_assert(offsetof(struct stress_guest, line_end) == 48, "LINE_END");
_Static_assert(offsetof(struct stress_guest, lock) == 56, "LOCK");
_Static_assert(offsetof(struct stress_guest, line) == 64, "LINE");

/* rax = the time stamp counter */
#define READ_CLOCK \
	"rdtsc\n" \
	"shl	$32, %rdx\n" \
	"or	%rdx, %rax\n"

/* Write rax in decimal, from right to left, until the byte on the left is a space. */
#define WRITE_NUMBER(end) \
	"mov	" end ", %rsi\n" \
	"mov	$10, %ecx\n" \
"90:\n" \
	"xor	%edx, %edx\n" \
	"div	%rcx\n" \
	"add	$'0', %dl\n" \
	"dec	%rsi\n" \
	"mov	%dl, (%rsi)\n" \
	"cmpb	$' ', -1(%rsi)\n" \
	"jne	90b\n"

/*
 * No stack, no calls, no interrupts; it never ends.
 *
 *   rdi  control block         r8   clock when this GiB began; 0 in the first pass
 *   r9   pages left of it      r10  page, and r11 pages left of the pass
 *   rbp  clock at its end
 *
 * In the first pass the host allocates the memory: its time says nothing, and no line is sent.
 */
#ifdef __x86_64__
__asm__(
	".pushsection .rodata\n"
	".balign 64\n"
	".globl guest_stress_code\n"
	".globl guest_stress_code_end\n"
	".code64\n"
"guest_stress_code:\n"
	"xor	%r8d, %r8d\n"
	"mov	" PAGES ", %r9\n"

"10:\n"	/* a pass */
	"mov	" BASE ", %r10\n"
	"mov	" PAGES ", %r11\n"
"11:\n"	/* a page */
	"xor	%ecx, %ecx\n"
	".balign 32, 0x90\n"
"12:\n"
	"mov	" TEXT(STRESS_DATA) "(%rcx), %rax\n"
	"add	%rax, (%r10,%rcx)\n"
	"add	$8, %ecx\n"
	"cmp	$4096, %ecx\n"
	"jb	12b\n"
	"add	$4096, %r10\n"
	"dec	%r9\n"
	"jz	20f\n"
"13:\n"
	"dec	%r11\n"
	"jnz	11b\n"
	"jmp	10b\n"

"20:\n"	/* a GiB is done, or the first pass */
	READ_CLOCK
	"mov	%rax, %rbp\n"
	"test	%r8, %r8\n"
	"jz	30f\n"
	"xor	%edx, %edx\n"
	"divq	" TICKS_PER_MS "\n"
	"add	" EPOCH_MS ", %rax\n"
	WRITE_NUMBER(NOW_END)
	"mov	%rbp, %rax\n"
	"sub	%r8, %rax\n"
	"xor	%edx, %edx\n"
	"divq	" TICKS_PER_MS "\n"
	WRITE_NUMBER(TOOK_END)

"21:\n"	/* one line at a time, whichever vCPU it is of */
	"mov	$1, %ecx\n"
	"xchg	%rcx, " LOCK "\n"
	"test	%rcx, %rcx\n"
	"jz	22f\n"
	"pause\n"
	"jmp	21b\n"
"22:\n"
	"lea	" LINE ", %rsi\n"
	"mov	$0x3f8, %edx\n"
"23:\n"
	"lodsb\n"
	"out	%al, %dx\n"
	"cmp	" LINE_END ", %rsi\n"
	"jb	23b\n"
	"movq	$0, " LOCK "\n"

"30:\n"
	READ_CLOCK
	"mov	%rax, %r8\n"
	"mov	$0x40000000 / 4096, %r9d\n"
	"jmp	13b\n"
"guest_stress_code_end:\n"
	".popsection\n"
);
#else
__asm__(
	".pushsection .rodata\n"
	".globl guest_stress_code, guest_stress_code_end\n"
"guest_stress_code:\n"
"guest_stress_code_end:\n"
	".popsection\n"
);
#endif

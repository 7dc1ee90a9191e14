/*
 * A page that waits to be sent need not be logged: it will be sent anyway, as it is by then. Protecting it again at each
 * harvest costs the guest a fault, and the ring an entry, for nothing. So a migration defers it: a harvest leaves a page
 * writable, and the sender has it protected before it reads it. What is stored after that is found, and sent again.
 *
 * KVM has no call for that where there are rings. But a reset protects what the released entries name, and they are
 * memory that both sides write: an entry that is released without a slot protects nothing, and a canary (see dirtylog.c)
 * can name any page.
 *
 * Nothing is lost, because a page's bits are set in this order: writable, then the bitmap, then the entry's flag. A sender
 * that has the page from the bitmap sees that it is writable. One that sends it for an earlier reason, and does not see
 * that yet, reads it too early, and will find it in the bitmap again.
 */
#include "protection.h"

#include <stdlib.h>

#include "bits.h"

int protection_init(struct protection *protection, uint64_t pages)
{
	protection->words = bits_words(pages);
	protection->writable = calloc(protection->words, sizeof(uint64_t));
	return protection->writable ? 0 : -1;
}

void protection_free(struct protection *protection)
{
	free(protection->writable);
}

bool protection_defer(struct protection *protection, uint64_t page)
{
	if (protection->deferred)
		bit_set(protection->writable, page);
	return protection->deferred;
}

uint64_t protection_writable(const struct protection *protection, uint64_t word)
{
	return load_acquire(&protection->writable[word]);
}

uint64_t protection_take(struct protection *protection, uint64_t word, uint64_t bits)
{
	uint64_t *writable = &protection->writable[word];

	return load_acquire(writable) & bits ? __atomic_fetch_and(writable, ~bits, __ATOMIC_ACQ_REL) & bits : 0;
}

void protection_forget(struct protection *protection)
{
	for (uint64_t word = 0; word < protection->words; word++)
		if (load_relaxed(&protection->writable[word]))
			store_release(&protection->writable[word], 0);
}

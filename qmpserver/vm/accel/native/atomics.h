/*
 * Accesses to memory that several threads share, with the order in the name. Plain C types and __atomic
 * builtins, because cffi reads the structures too. Whatever needs sequential consistency is in kick.c, but for
 * the software accelerator, which has processors of its own to keep in order.
 */
#ifndef QMPSERVER_ATOMICS_H
#define QMPSERVER_ATOMICS_H

#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define add_seq_cst(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)

/* Only the calling thread writes the counter; others may read it at any time. */
#define count_up(p, by) store_release((p), *(p) + (by))

#endif

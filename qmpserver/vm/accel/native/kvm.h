/* KVM's side of the engine: what its functions need beside the vCPUs' descriptors. */
#ifndef QMPSERVER_KVM_H
#define QMPSERVER_KVM_H

#include <signal.h>
#include <stdint.h>

#define KICK_SIGNAL SIGURG /* kick.c says why */

struct engine;

/* cdef begin */
struct kvm_vm {
	int fd;        /* -1: the engine does not use KVM */
	int canary_fd; /* of the canary's vCPU */
	uint64_t canary_gpa; /* its page */
};

/* ioctl(), whose declaration differs between C libraries. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
/* cdef end */

int kvm_install_kick(void);

#endif

/*
 * linux/kvm.h of Linux 5.15 or later, and the numbers that headers older than 6.1 lack. Having a number says nothing of
 * the running kernel: whoever uses one asks KVM_CHECK_EXTENSION first.
 */
#ifndef QMPSERVER_KVM_API_H
#define QMPSERVER_KVM_API_H

#include <linux/kvm.h>

#if !defined(KVM_CAP_DIRTY_LOG_RING) || !defined(KVM_CAP_SREGS2)
#error "linux/kvm.h of Linux 5.15 or later is needed"
#endif

#ifndef KVM_CAP_BINARY_STATS_FD
#define KVM_CAP_BINARY_STATS_FD 203
#define KVM_GET_STATS_FD _IO(KVMIO, 0xce)
#endif
#ifndef KVM_CAP_XSAVE2
#define KVM_CAP_XSAVE2 208
#define KVM_GET_XSAVE2 _IOR(KVMIO, 0xcf, struct kvm_xsave)
#endif
#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif
#ifndef KVM_CAP_X86_TRIPLE_FAULT_EVENT
#define KVM_CAP_X86_TRIPLE_FAULT_EVENT 218
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

#endif

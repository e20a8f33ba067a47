// What the fixtures need of CUDA C++, so that clang compiles them without any vendor header.
#pragma once
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(n) __attribute__((launch_bounds(n)))

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef unsigned long long ulong;

struct Index {
    int x, y, z;
};
#define threadIdx (Index{(int)__nvvm_read_ptx_sreg_tid_x(), (int)__nvvm_read_ptx_sreg_tid_y(), (int)__nvvm_read_ptx_sreg_tid_z()})
#define blockIdx (Index{(int)__nvvm_read_ptx_sreg_ctaid_x(), (int)__nvvm_read_ptx_sreg_ctaid_y(), (int)__nvvm_read_ptx_sreg_ctaid_z()})
#define blockDim (Index{(int)__nvvm_read_ptx_sreg_ntid_x(), (int)__nvvm_read_ptx_sreg_ntid_y(), (int)__nvvm_read_ptx_sreg_ntid_z()})
#define gridDim (Index{(int)__nvvm_read_ptx_sreg_nctaid_x(), (int)__nvvm_read_ptx_sreg_nctaid_y(), (int)__nvvm_read_ptx_sreg_nctaid_z()})

static __device__ inline int global_index() { return blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ inline int lane() { return __nvvm_read_ptx_sreg_laneid(); }

extern "C" __device__ int vprintf(const char *format, const void *arguments);
extern "C" __device__ __attribute__((noreturn)) void __assertfail(const char *message, const char *file, uint line,
                                                                 const char *function, unsigned long char_size);

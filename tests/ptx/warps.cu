// Lanes and warps together: shuffles, votes, matches, reductions, scans, barriers, atomics, locks.
#include "device.h"

#define ALL 0xffffffffu

extern "C" __global__ void reduce(const int *in, ulong *out, int n) {
    __shared__ int partial[32];
    int sum = 0;
    for (int i = global_index(); i < n; i += blockDim.x * gridDim.x) sum += in[i];
    for (int d = 16; d > 0; d >>= 1) sum += __nvvm_shfl_sync_down_i32(ALL, sum, d, 31);
    if (lane() == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
        for (int d = 16; d > 0; d >>= 1) sum += __nvvm_shfl_sync_bfly_i32(ALL, sum, d, 31);
        if (threadIdx.x == 0) __nvvm_atom_add_gen_ll((long long *)out, sum);
    }
}

// Inclusive scan of one block, by doubling distances in shared memory of dynamic size.
extern __shared__ uint scratch[];
extern "C" __global__ void scan(const uint *in, uint *out) {
    int t = threadIdx.x, n = blockDim.x;
    uint *from = scratch, *to = scratch + n;
    from[t] = in[blockIdx.x * n + t];
    __syncthreads();
    for (int d = 1; d < n; d *= 2) {
        to[t] = from[t] + (t >= d ? from[t - d] : 0);
        uint *swap = from;
        from = to;
        to = swap;
        __syncthreads();
    }
    out[blockIdx.x * n + t] = from[t];
}

// Scan of a warp: up-shuffles leave the lanes below alone.
extern "C" __global__ void warp_scan(int *values) {
    int v = values[global_index()];
    for (int d = 1; d < 32; d *= 2) {
        int other = __nvvm_shfl_sync_up_i32(ALL, v, d, 0);
        if (lane() >= d) v += other;
    }
    values[global_index()] = v;
}

extern "C" __global__ void histogram(const uchar *in, uint *bins, int n) {
    __shared__ uint local[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = global_index(); i < n; i += blockDim.x * gridDim.x) __atomic_fetch_add(&local[in[i]], 1u, __ATOMIC_RELAXED);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) __atomic_fetch_add(&bins[i], local[i], __ATOMIC_RELAXED);
}

extern "C" __global__ void votes(const int *in, uint *out) {
    int i = global_index(), v = in[i];
    uint ballot = __nvvm_vote_ballot_sync(ALL, v > 10);
    uint flags = __nvvm_vote_all_sync(ALL, v > 0) | __nvvm_vote_any_sync(ALL, v > 90) << 1 |
                 __nvvm_vote_uni_sync(ALL, v > 200) << 2;
    uint same = __nvvm_match_any_sync_i32(ALL, v & 3);
    uint odd = 0;
    if (i & 1) odd = __nvvm_vote_ballot_sync(0xaaaaaaaau, v & 4);
    out[4 * i] = ballot;
    out[4 * i + 1] = flags;
    out[4 * i + 2] = same;
    out[4 * i + 3] = odd;
}

extern "C" __global__ void atomics(int *i, uint *u, long long *l, ulong *ul, float *f, double *d) {
    int t = global_index();
    __atomic_fetch_add(&i[0], t, __ATOMIC_RELAXED);
    __nvvm_atom_min_gen_i(&i[1], 100 - t);
    __nvvm_atom_max_gen_i(&i[2], t - 100);
    __atomic_fetch_and(&i[3], ~(1 << (t & 15)), __ATOMIC_RELAXED);
    __atomic_fetch_or(&i[4], 1 << (t & 31), __ATOMIC_RELAXED);
    __atomic_fetch_xor(&i[5], t * 77, __ATOMIC_RELAXED);
    __nvvm_atom_inc_gen_ui(&u[0], 9);
    __nvvm_atom_dec_gen_ui(&u[1], 9);
    __nvvm_atom_max_gen_ui(&u[2], t * 3u);
    __atomic_fetch_add(&l[0], (long long)t << 33, __ATOMIC_RELAXED);
    __nvvm_atom_min_gen_ll(&l[1], -(long long)t * t);
    __nvvm_atom_max_gen_ull(&ul[0], (ulong)t << 40);
    __nvvm_atom_add_gen_f(&f[0], 0.5f);
    __nvvm_atom_add_gen_d(&d[0], 0.25);
    // A product by compare-and-swap.
    uint old = u[3], seen;
    do {
        seen = old;
        old = __nvvm_atom_cas_gen_i((int *)&u[3], seen, seen * 3 + 1);
    } while (old != seen);
}

// Every thread takes a lock that the other lanes of its warp want too.
extern "C" __global__ void spinlock(int *lock, int *counter) {
    bool done = false;
    while (!done) {
        if (__nvvm_atom_cas_gen_i(lock, 0, 1) == 0) {
            *(volatile int *)counter = *(volatile int *)counter + 1;
            __nvvm_membar_gl();
            __nvvm_atom_xchg_gen_i(lock, 0);
            done = true;
        }
    }
}

// Named barriers: one half of the block produces for the other.
extern "C" __global__ void named_barriers(int *out) {
    __shared__ int box[64];
    int t = threadIdx.x;
    if (t < 64) {
        box[t] = t * t;
        asm volatile("bar.arrive 3, 128;" ::: "memory");
    } else {
        asm volatile("bar.sync 3, 128;" ::: "memory");
        out[t - 64] = box[127 - t];
    }
    int count = __nvvm_bar0_popc(t % 3 == 0), all = __nvvm_bar0_and(t < 128), any = __nvvm_bar0_or(t == 500);
    if (t == 0) {
        out[64] = count;
        out[65] = all;
        out[66] = any;
    }
}

// Some threads never reach the barrier, which is fine once they are gone …
extern "C" __global__ void early_exit(int *out) {
    if (threadIdx.x % 3 == 0) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

// … and a deadlock while they wait elsewhere.
extern "C" __global__ void deadlock(int *out) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 64;" ::: "memory");
    else
        asm volatile("bar.sync 2, 64;" ::: "memory");
    out[threadIdx.x] = 1;
}

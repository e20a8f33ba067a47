// Arithmetic: conversions, roundings, integer corner cases, special functions.
#include "device.h"

extern "C" __global__ void half_conversion(const float *in, ushort *bits, float *back, int n) {
    int i = global_index();
    if (i >= n) return;
    __fp16 h = (__fp16)in[i];
    bits[i] = __builtin_bit_cast(ushort, h);
    back[i] = (float)h * 2.0f;
}

extern "C" __global__ void float_conversion(const float *in, int *i32, uint *u32, long long *i64, uchar *u8, int n) {
    int i = global_index();
    if (i >= n) return;
    float v = in[i];
    asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(i32[i]) : "f"(v));
    asm("cvt.rni.u32.f32 %0, %1;" : "=r"(u32[i]) : "f"(v));
    asm("cvt.rmi.s64.f32 %0, %1;" : "=l"(i64[i]) : "f"(v));
    uint small;
    asm("cvt.rpi.u8.f32 %0, %1;" : "=r"(small) : "f"(v));
    u8[i] = small;
}

// Results of one operation in the four directions, as bits.
extern "C" __global__ void rounding(const float *a, const float *b, float *out, int n) {
    int i = global_index();
    if (i >= n) return;
    float x = a[i], y = b[i], *o = out + 20 * i;
#define FOUR(at, text, ...)                                                                                            \
    asm(text ".rn.f32 %0, " __VA_ARGS__ : "=f"(o[at]) : "f"(x), "f"(y));                                               \
    asm(text ".rz.f32 %0, " __VA_ARGS__ : "=f"(o[at + 1]) : "f"(x), "f"(y));                                           \
    asm(text ".rm.f32 %0, " __VA_ARGS__ : "=f"(o[at + 2]) : "f"(x), "f"(y));                                           \
    asm(text ".rp.f32 %0, " __VA_ARGS__ : "=f"(o[at + 3]) : "f"(x), "f"(y));
    FOUR(0, "add", "%1, %2;")
    FOUR(4, "mul", "%1, %2;")
    FOUR(8, "div", "%1, %2;")
    FOUR(12, "fma", "%1, %2, %1;")
    FOUR(16, "sqrt", "%1;")
}

extern "C" __global__ void double_math(const double *in, double *out, int n) {
    int i = global_index();
    if (i >= n) return;
    double v = in[i];
    out[6 * i] = __builtin_sqrt(v);
    out[6 * i + 1] = 1.0 / v;
    out[6 * i + 2] = __builtin_fma(v, v, -1.0);
    out[6 * i + 3] = __builtin_floor(v) + __builtin_ceil(v) * 0.5;
    out[6 * i + 4] = (double)(long long)(v * 1000.0) + (double)(float)v;
    out[6 * i + 5] = __builtin_fmin(v, 2.5) + __builtin_fabs(-v);
}

extern "C" __global__ void approximations(const float *in, float *out, int n) {
    int i = global_index();
    if (i >= n) return;
    float v = in[i], *o = out + 7 * i;
    o[0] = __nvvm_sin_approx_f(v);
    o[1] = __nvvm_cos_approx_f(v);
    o[2] = __nvvm_ex2_approx_f(v);
    o[3] = __nvvm_lg2_approx_f(v);
    o[4] = __nvvm_rsqrt_approx_f(v);
    asm("rcp.approx.f32 %0, %1;" : "=f"(o[5]) : "f"(v));
    asm("div.approx.f32 %0, %1, %2;" : "=f"(o[6]) : "f"(v), "f"(3.0f));
}

extern "C" __global__ void integers(const int *a, const int *b, long long *out, int n) {
    int i = global_index();
    if (i >= n) return;
    int x = a[i], y = b[i];
    long long *o = out + 16 * i;
    o[0] = y ? x / y : 0;
    o[1] = y ? x % y : 0;
    o[2] = (uint)x / (y ? (uint)y : 1u);
    o[3] = (long long)x * y;
    o[4] = __nvvm_mulhi_i(x, y);
    o[5] = __nvvm_mulhi_ui(x, y);
    o[6] = __builtin_popcount(x) + (x ? __builtin_clz(x) : 32) * 100;
    o[7] = __builtin_bitreverse32(x);
    o[8] = ((ulong)(uint)x << (y & 63)) ^ ((long long)x >> (y & 63));
    o[9] = (short)x * (short)y + (char)x;
    uint r;
    asm("bfe.u32 %0, %1, %2, 7;" : "=r"(r) : "r"(x), "r"(y & 31));
    o[10] = r;
    asm("bfi.b32 %0, %1, %2, 5, 9;" : "=r"(r) : "r"(x), "r"(y));
    o[11] = r;
    asm("prmt.b32 %0, %1, %2, 0x2509;" : "=r"(r) : "r"(x), "r"(y));
    o[12] = r;
    asm("lop3.b32 %0, %1, %2, %3, 0xd8;" : "=r"(r) : "r"(x), "r"(y), "r"(i));
    o[13] = r;
    asm("dp4a.s32.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(i));
    o[14] = r;
    asm("{.reg .u32 h; add.cc.u32 h, %1, %2; addc.u32 %0, h, 0;}" : "=r"(r) : "r"(x), "r"(y));
    o[15] = r;
}

extern "C" __global__ void wide_integers(const ulong *a, const ulong *b, ulong *out, int n) {
    int i = global_index();
    if (i >= n) return;
    unsigned __int128 p = (unsigned __int128)a[i] * b[i] + 12345;
    out[4 * i] = p;
    out[4 * i + 1] = p >> 64;
    out[4 * i + 2] = a[i] / (b[i] | 1);
    out[4 * i + 3] = a[i] % (b[i] | 1);
}

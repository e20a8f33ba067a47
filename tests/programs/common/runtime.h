// For programs written against the runtime API.
#pragma once

#include <cuda_runtime.h>

#include "check.h"

#define RT(call)                                                                                      \
    do {                                                                                              \
        cudaError_t status_ = (call);                                                                 \
        if (status_ != cudaSuccess)                                                                   \
            FAIL("%s returned %d (%s)", #call, int(status_), cudaGetErrorName(status_));              \
    } while (0)

// The call must return exactly `expected`; the runtime's per-thread last error is cleared afterwards.
#define RT_IS(call, expected)                                                                         \
    do {                                                                                              \
        cudaError_t status_ = (call);                                                                 \
        if (status_ != (expected))                                                                    \
            FAIL("%s returned %d (%s), expected %d", #call, int(status_), cudaGetErrorName(status_),  \
                 int(expected));                                                                      \
        (void)cudaGetLastError();                                                                     \
    } while (0)

// What the loaded libcudart (which need not be the one a program was built against) reports for a launch whose grid or
// block no device takes. The driver's answer is CUDA_ERROR_INVALID_VALUE; the runtimes before 13 turn it into an error of
// their own, 13 hands it on.
inline cudaError_t error_of_an_impossible_shape() {
    int version = 0;
    if (cudaRuntimeGetVersion(&version) != cudaSuccess) std::abort();
    return version >= 13000 ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
}

// Stops with SKIP when the device says honestly that it cannot do this.
#define RT_OR_SKIP(call)                                                                              \
    do {                                                                                              \
        cudaError_t status_ = (call);                                                                 \
        if (status_ == cudaErrorNotSupported || status_ == cudaErrorNotPermitted)                     \
            SKIP("%s: the device answers %s", #call, cudaGetErrorName(status_));                      \
        if (status_ != cudaSuccess)                                                                   \
            FAIL("%s returned %d (%s)", #call, int(status_), cudaGetErrorName(status_));              \
    } while (0)

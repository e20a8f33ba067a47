// What every test program shares: one verdict line at the end, and failing loudly with the place and the reason.
//
// Protocol (read by the harness): the last line of stdout is `PASS name`, `FAIL name: why` or `SKIP name: why`; the exit
// status is 0, 1 or 77. A crash or a missing line is a failure.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Names the program; used once, at file scope.
#define TEST(name) static const char *const test_name = name

[[noreturn]] __attribute__((format(printf, 5, 6))) inline void test_stop(
    const char *word, int status, const char *name, int line, const char *format, ...) {
    std::fflush(stdout);
    std::printf("%s %s: line %d: ", word, name, line);
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
    std::fflush(stdout);
    // No destructors: a failing program may hold locks, and threads of it may still run.
    std::_Exit(status);
}

#define FAIL(...) test_stop("FAIL", 1, test_name, __LINE__, __VA_ARGS__)
#define SKIP(...) test_stop("SKIP", 77, test_name, __LINE__, __VA_ARGS__)
#define REQUIRE(condition, ...)            \
    do {                                   \
        if (!(condition)) FAIL(__VA_ARGS__); \
    } while (0)

// The verdict of a program that got to its end; returned from main, so that exit handlers and destructors run too.
#define PASS() (std::printf("PASS %s\n", test_name), std::fflush(stdout), 0)

// Set by the harness when the program runs on NVIDIA's own driver: checks that only a checking driver survives
// (forged handles, for one) are left out there.
inline bool on_native_driver() { return std::getenv("VGPU_E2E_NATIVE") != nullptr; }

// A whole-number argument scaling the work; 1 keeps the program short enough for an interpreter on one core.
inline long scale_argument(int argc, char **argv) {
    long scale = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 1;
    return scale < 1 ? 1 : scale;
}

// A small reproducible generator (xorshift32), so that inputs are the same everywhere.
struct Random {
    uint32_t state = 0x9e3779b9u;
    uint32_t next() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        return state;
    }
    // Uniform in [0, 1).
    float uniform() { return static_cast<float>(next() >> 8) * (1.0f / 16777216.0f); }
};

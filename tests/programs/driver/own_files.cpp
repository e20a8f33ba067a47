// A path names a file as this process sees it: images load from a file without a name, through a descriptor that no other
// process has. What is not there is FILE_NOT_FOUND.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "../common/driver.h"

TEST("own_files");

static CUdeviceptr word;

static void check(CUfunction fill, unsigned value, const char *how) {
    unsigned host = 0;
    CU(launch(fill, nullptr, 1, word, value, 1));
    CU(cuMemcpyDtoH(&host, word, 4));
    REQUIRE(host == value, "%s: the kernel stored %u, not %u", how, host, value);
}

int main() {
    open_gpu(test_name);
    CU(cuMemAlloc(&word, 64));
    int unnamed = memfd_create("own_files", 0);
    REQUIRE(unnamed >= 0, "memfd_create failed");
    // A number that a process which only serves calls does not reach.
    int file = fcntl(unnamed, F_DUPFD, 700);
    REQUIRE(file >= 700, "fcntl failed");
    size_t size = std::strlen(kernels_ptx);
    REQUIRE(write(file, kernels_ptx, size) == ssize_t(size), "write failed");
    const std::string path = "/proc/self/fd/" + std::to_string(file);

    CUmodule module;
    CUfunction fill;
    CU(cuModuleLoad(&module, path.c_str()));
    CU(cuModuleGetFunction(&fill, module, "fill"));
    check(fill, 11, "cuModuleLoad");
    CU(cuModuleUnload(module));

    CUlibrary library;
    CUkernel kernel;
    CU(cuLibraryLoadFromFile(&library, path.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0));
    CU(cuLibraryGetKernel(&kernel, library, "fill"));
    CU(cuKernelGetFunction(&fill, kernel));
    check(fill, 12, "cuLibraryLoadFromFile");
    CU(cuLibraryUnload(library));

    CUlinkState link;
    void *image = nullptr;
    size_t bytes = 0;
    CU(cuLinkCreate(0, nullptr, nullptr, &link));
    CU(cuLinkAddFile(link, CU_JIT_INPUT_PTX, path.c_str(), 0, nullptr, nullptr));
    CU(cuLinkComplete(link, &image, &bytes));
    CU(cuModuleLoadData(&module, image));
    CU(cuLinkDestroy(link));
    CU(cuModuleGetFunction(&fill, module, "fill"));
    check(fill, 13, "cuLinkAddFile");
    CU(cuModuleUnload(module));

    CU_IS(cuModuleLoad(&module, "/nonexistent/own_files.ptx"), CUDA_ERROR_FILE_NOT_FOUND);
    CU_IS(cuLibraryLoadFromFile(&library, "/nonexistent/own_files.ptx", nullptr, nullptr, 0, nullptr, nullptr, 0), CUDA_ERROR_FILE_NOT_FOUND);
    return PASS();
}

/* Decodes with a prebuilt llama.cpp: a prompt, then one greedy token after the other.
 *
 *     decode FOLDER LIBLLAMA LIBGGML MODEL TOKENS
 *
 * FOLDER holds the libraries of @node-llama-cpp/linux-x64-cuda; no header of theirs is needed: parameter structs are
 * passed on as the library made them, in room larger than they are. Prints the device, the tokens and a checksum of all
 * logits' bits, and `SPEED name seconds` lines. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A struct that travels in memory may be passed as a larger one: whoever takes it reads its own bytes. */
struct params { uint64_t words[64]; };
struct batch { int32_t count; void *fields[6]; };

static void *need(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (!symbol) { fprintf(stderr, "decode: no %s\n", name); exit(2); }
    return symbol;
}

static void *load(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) { fprintf(stderr, "decode: %s\n", dlerror()); exit(2); }
    return library;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void quiet(int level, const char *text, void *data)
{
    (void)data;
    if (level >= 3 || getenv("DECODE_VERBOSE")) fputs(text, stderr);
}

int main(int argc, char **argv)
{
    if (argc != 6) { fprintf(stderr, "usage: decode FOLDER LIBLLAMA LIBGGML MODEL TOKENS\n"); return 2; }
    enum { PROMPT = 64 };
    int wanted = atoi(argv[5]);
    load(argv[1], "libggml-base.so");
    void *ggml = load(argv[1], argv[3]);
    void *llama = load(argv[1], argv[2]);

    void (*log_set)(void (*)(int, const char *, void *), void *) = need(llama, "llama_log_set");
    void *(*backend_load)(const char *) = need(ggml, "ggml_backend_load");
    size_t (*dev_count)(void) = need(ggml, "ggml_backend_dev_count");
    void *(*dev_get)(size_t) = need(ggml, "ggml_backend_dev_get");
    const char *(*dev_name)(void *) = need(llama, "ggml_backend_dev_name");
    const char *(*dev_description)(void *) = need(llama, "ggml_backend_dev_description");
    struct params (*model_defaults)(void) = need(llama, "llama_model_default_params");
    struct params (*context_defaults)(void) = need(llama, "llama_context_default_params");
    void *(*model_load)(const char *, struct params) = need(llama, "llama_model_load_from_file");
    void *(*context_make)(void *, struct params) = need(llama, "llama_init_from_model");
    struct batch (*batch_of)(int32_t *, int32_t) = need(llama, "llama_batch_get_one");
    int32_t (*decode)(void *, struct batch) = need(llama, "llama_decode");
    float *(*logits)(void *, int32_t) = need(llama, "llama_get_logits_ith");
    const void *(*vocab_of)(const void *) = need(llama, "llama_model_get_vocab");
    int32_t (*words_in)(const void *) = need(llama, "llama_vocab_n_tokens");
    void (*context_free)(void *) = need(llama, "llama_free");
    void (*model_free)(void *) = need(llama, "llama_model_free");

    double begin = now();
    log_set(quiet, NULL);
    const char *backends[] = {"libggml-cuda.so", "libggml-cpu-haswell.so"};
    for (int i = 0; i < 2; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], backends[i]);
        if (!getenv("DECODE_CPU_ONLY") || i == 1) backend_load(path);
    }
    for (size_t i = 0; i < dev_count(); i++)
        printf("device %s: %s\n", dev_name(dev_get(i)), dev_description(dev_get(i)));
    printf("SPEED discover %.6f\n", now() - begin);

    begin = now();
    struct params params = model_defaults();
    int32_t layers = 999;
    memcpy((char *)&params + 16, &layers, sizeof layers); /* n_gpu_layers, behind two pointers */
    void *model = model_load(argv[4], params);
    if (!model) { fprintf(stderr, "decode: the model cannot be loaded\n"); return 3; }
    void *context = context_make(model, context_defaults());
    if (!context) { fprintf(stderr, "decode: no context\n"); return 3; }
    printf("SPEED load %.6f\n", now() - begin);

    int32_t words = words_in(vocab_of(model));
    int32_t tokens[PROMPT];
    for (int i = 0; i < PROMPT; i++) tokens[i] = (i * 37 + 11) % words;
    uint64_t sum = 1469598103934665603u;
    double prompt = 0, steps = 0;
    for (int step = 0; step < wanted; step++) {
        begin = now();
        int32_t status = decode(context, batch_of(tokens, step == 0 ? PROMPT : 1));
        if (status != 0) { fprintf(stderr, "decode: llama_decode says %d\n", status); return 4; }
        float *row = logits(context, -1);
        *(step == 0 ? &prompt : &steps) += now() - begin;
        int32_t best = 0;
        for (int32_t i = 0; i < words; i++) {
            uint32_t bits;
            memcpy(&bits, row + i, sizeof bits);
            sum = (sum ^ bits) * 1099511628211u;
            if (row[i] > row[best]) best = i;
        }
        printf("%d%c", best, step + 1 == wanted ? '\n' : ' ');
        tokens[0] = best;
    }
    printf("logits %016llx\n", (unsigned long long)sum);
    printf("SPEED prompt %.6f\nSPEED step %.9f\n", prompt, steps / (wanted - 1));
    context_free(context);
    model_free(model);
    return 0;
}

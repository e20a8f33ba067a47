// Ten steps of a small n-body system in double precision: momentum stays zero, and the result is the host's to 1e-9.
#include <cmath>
#include <vector>

#include "../common/runtime.h"

TEST("nbody");

struct Body {
    double x, y, z, vx, vy, vz;
};

__host__ __device__ inline void pull(const Body *all, int n, int i, double *ax, double *ay, double *az) {
    *ax = *ay = *az = 0.0;
    for (int j = 0; j < n; ++j) {
        double dx = all[j].x - all[i].x, dy = all[j].y - all[i].y, dz = all[j].z - all[i].z;
        double r2 = dx * dx + dy * dy + dz * dz + 0.05;
        double inverse = 1.0 / (r2 * sqrt(r2));
        *ax += dx * inverse;
        *ay += dy * inverse;
        *az += dz * inverse;
    }
}

__global__ void step(const Body *in, Body *out, int n, double dt) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double ax, ay, az;
    pull(in, n, i, &ax, &ay, &az);
    Body b = in[i];
    b.vx += ax * dt, b.vy += ay * dt, b.vz += az * dt;
    b.x += b.vx * dt, b.y += b.vy * dt, b.z += b.vz * dt;
    out[i] = b;
}

int main(int argc, char **argv) {
    const int n = int(128 * scale_argument(argc, argv)), steps = 10;
    const double dt = 1e-4;
    std::vector<Body> now(n), next(n), device(n);
    Random random;
    for (auto &b : now) b = {random.uniform() - 0.5, random.uniform() - 0.5, random.uniform() - 0.5, 0, 0, 0};
    Body *a, *b;
    RT(cudaMalloc(&a, n * sizeof(Body)));
    RT(cudaMalloc(&b, n * sizeof(Body)));
    RT(cudaMemcpy(a, now.data(), n * sizeof(Body), cudaMemcpyHostToDevice));
    for (int s = 0; s < steps; ++s) {
        step<<<(n + 63) / 64, 64>>>(a, b, n, dt);
        std::swap(a, b);
    }
    RT(cudaMemcpy(device.data(), a, n * sizeof(Body), cudaMemcpyDeviceToHost));
    for (int s = 0; s < steps; ++s) {
        for (int i = 0; i < n; ++i) {
            double ax, ay, az;
            pull(now.data(), n, i, &ax, &ay, &az);
            Body body = now[i];
            body.vx += ax * dt, body.vy += ay * dt, body.vz += az * dt;
            body.x += body.vx * dt, body.y += body.vy * dt, body.z += body.vz * dt;
            next[i] = body;
        }
        now.swap(next);
    }
    double momentum = 0.0;
    for (int i = 0; i < n; ++i) {
        momentum += device[i].vx + device[i].vy + device[i].vz;
        REQUIRE(std::fabs(device[i].x - now[i].x) < 1e-9 && std::fabs(device[i].vy - now[i].vy) < 1e-9,
                "body %d is at %.15g, not %.15g", i, device[i].x, now[i].x);
    }
    REQUIRE(std::fabs(momentum) < 1e-9 * n, "momentum is %g", momentum);
    return PASS();
}

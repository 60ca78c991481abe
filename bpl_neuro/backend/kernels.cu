// What every generated kernel starts from, and the two kernels that do not depend on a model.
//
// REAL is float or double (-DREAL=…). No shared memory, no __syncthreads, no warp intrinsics, no atomics: each thread
// writes what is its own, so results do not depend on the order of threads, and the same text runs on a CPU for tests.
// Every array comes with its strides, counted in elements.

typedef long long index_t;

#define EACH(q, size)                                                                                       \
    for (index_t q = (index_t)blockIdx.x * blockDim.x + threadIdx.x; q < (size); q += (index_t)gridDim.x * blockDim.x)

// target[b, a, j] += slope[b, a] z[b, j]; without `slope` it is the number `factor`.
extern "C" __global__ void add_outer(
    index_t B, index_t R, index_t m,
    REAL *target, index_t target_b, index_t target_a, index_t target_j,
    const REAL *slope, index_t slope_b, index_t slope_a, REAL factor,
    const REAL *z, index_t z_b, index_t z_j)
{
    EACH(q, B * R * m) {
        const index_t j = q % m, a = q / m % R, b = q / m / R;
        const REAL s = slope ? slope[b * slope_b + a * slope_a] : factor;
        target[b * target_b + a * target_a + j * target_j] += s * z[b * z_b + j * z_j];
    }
}

// One step of Adam on flat vectors: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − rate·m / (√(v/correction2) + ε).
extern "C" __global__ void adam(
    index_t size, const REAL *p, const REAL *g, const REAL *m, const REAL *v,
    REAL rate, REAL beta1, REAL rest1, REAL beta2, REAL rest2, REAL correction2, REAL epsilon, REAL most,
    REAL *p_new, REAL *m_new, REAL *v_new)
{
    EACH(q, size) {
        const REAL m_q = beta1 * m[q] + rest1 * g[q];
        const REAL v_q = beta2 * v[q] + rest2 * g[q] * g[q];
        m_new[q] = m_q;
        v_new[q] = v_q;
        const REAL step = rate * m_q / (sqrt(v_q / correction2) + epsilon);
        p_new[q] = p[q] - (step > most ? most : step < -most ? -most : step);
    }
}

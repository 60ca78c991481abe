// The loops of the C backend that do not depend on a model: over places, over the steps of a trial and back.
//
// Kernels made from equations come in as pointers, and so does the matrix product of BLAS.

#include <stdlib.h>

// results at `size` places that lie side by side, of arrays and numbers
typedef void kernel_t(index_t size, const REAL *const *in, const REAL *numbers, REAL *const *out);

// a kernel with what it works on: `in` arguments, then `out` results, each (rows, columns) at every step
typedef struct {
    kernel_t *kernel;
    const REAL *numbers;
    index_t columns, in, out;
    const view *views;
} map;

typedef void gemm_t(
    char *, char *, int *, int *, int *, REAL *, const REAL *, int *, const REAL *, int *, REAL *, REAL *, int *);

// c (rows, m) ← a (rows, k) · w (k, m) + factor · c
static void multiply(
    gemm_t *gemm, index_t rows, index_t m, index_t k, const REAL *a, index_t a_row, const REAL *w, REAL factor,
    REAL *c, index_t c_row)
{
    char as_it_is = 'N';
    int M = m, N = rows, K = k, lda = m, ldb = a_row, ldc = c_row;
    REAL one = 1;
    gemm(&as_it_is, &as_it_is, &M, &N, &K, &one, w, &lda, a, &ldb, &factor, c, &ldc);
}

static int side_by_side(const view *v, index_t columns) { return v->column == 1 && v->row == columns; }

static void gather(
    const view *v, index_t t, index_t r, index_t c, index_t rows, index_t columns, REAL *restrict to)
{
    const REAL *restrict from = v->at + t * v->step + r * v->row + c * v->column;
    const index_t column = v->column;
    for (index_t i = 0; i < rows; ++i, from += v->row, to += columns) {
        if (column == 1)
            memcpy(to, from, columns * sizeof(REAL));
        else if (column == 2)
            for (index_t j = 0; j < columns; ++j) to[j] = from[2 * j];
        else
            for (index_t j = 0; j < columns; ++j) to[j] = from[column * j];
    }
}

static void scatter(
    const view *v, index_t t, index_t r, index_t c, index_t rows, index_t columns, const REAL *restrict from)
{
    REAL *restrict to = v->at + t * v->step + r * v->row + c * v->column;
    const index_t column = v->column;
    for (index_t i = 0; i < rows; ++i, to += v->row, from += columns) {
        if (column == 1)
            memcpy(to, from, columns * sizeof(REAL));
        else if (column == 2)
            for (index_t j = 0; j < columns; ++j) to[2 * j] = from[j];
        else
            for (index_t j = 0; j < columns; ++j) to[column * j] = from[j];
    }
}

// Run a kernel over all rows of a step, tile by tile; what does not lie side by side is copied.
void elementwise(const map *m, index_t t, index_t rows)
{
    const index_t columns = m->columns, all = m->in + m->out;
    REAL buffer[all][TILE];
    const REAL *in[all];
    REAL *out[all];
    index_t high = columns < TILE ? TILE / columns : 1;
    while (high > 1 && high * columns % 16 && (high - 1) * columns > TILE / 2) --high;  // whole vectors, if possible
    const index_t wide = columns < TILE ? columns : TILE;
    for (index_t r = 0; r < rows; r += high)
    for (index_t c = 0; c < columns; c += wide) {
        const index_t h = r + high < rows ? high : rows - r, w = c + wide < columns ? wide : columns - c;
        for (index_t k = 0; k < m->in; ++k) {
            const view *v = m->views + k;
            if (side_by_side(v, columns) || (h == 1 && v->column == 1)) {
                in[k] = v->at + t * v->step + r * v->row + c;
            } else {
                gather(v, t, r, c, h, w, buffer[k]);
                in[k] = buffer[k];
            }
        }
        for (index_t k = 0; k < m->out; ++k) {
            const view *v = m->views + m->in + k;
            const int there = side_by_side(v, columns) || (h == 1 && v->column == 1);
            out[k] = there ? v->at + t * v->step + r * v->row + c : buffer[m->in + k];
        }
        m->kernel(h * w, in, m->numbers, out);
        for (index_t k = 0; k < m->out; ++k)
            if (out[k] == buffer[m->in + k]) scatter(m->views + m->in + k, t, r, c, h, w, out[k]);
    }
}

// ---- Python's arrays

// Py_buffer, and those of Python's functions that are called, so that no header of Python's is needed
typedef struct {
    void *at, *owner;
    intptr_t length, item;
    int read_only, axes;
    char *format;
    intptr_t *shape, *strides, *suboffsets;
    void *internal;
} buffer;

typedef struct {
    int (*get)(void *, buffer *, int);
    void (*release)(buffer *);
    void *(*item)(void *, intptr_t);
    void (*clear_error)(void);
} python;

#define STRIDES 0x18

// The views of a tuple's arrays; 0 unless all have the right size of element. They stay valid while the arrays do.
static int look(const python *py, void *arrays, index_t count, view *out, intptr_t (*shapes)[3])
{
    for (index_t k = 0; k < count; ++k) {
        buffer b;
        if (py->get(py->item(arrays, k), &b, STRIDES)) {
            py->clear_error();
            return 0;
        }
        const int fits = b.item == sizeof(REAL) && b.axes <= 3;
        out[k] = (view){b.at, 0, 0, 0};
        index_t steps[3] = {0, 0, 0};
        for (int a = 0; fits && a < b.axes; ++a) {
            steps[3 - b.axes + a] = b.strides[a] / (intptr_t)sizeof(REAL);
            if (shapes) shapes[k][3 - b.axes + a] = b.shape[a];
        }
        for (int a = 0; shapes && a < 3 - b.axes; ++a) shapes[k][a] = 1;
        out[k].step = steps[0], out[k].row = steps[1], out[k].column = steps[2];
        py->release(&b);
        if (!fits) return 0;
    }
    return 1;
}

int views(const python *py, void *arrays, index_t count, view *out) { return look(py, arrays, count, out, 0); }

// `elementwise` of arrays that are stretched over (rows, columns), arguments first; 0 unless all fit.
int elementwise_of(
    const python *py, kernel_t *kernel, const REAL *numbers, index_t rows, index_t columns, index_t in, index_t out,
    void *arrays)
{
    view places[in + out];
    intptr_t shapes[in + out][3];
    if (!look(py, arrays, in + out, places, shapes)) return 0;
    for (index_t k = 0; k < in + out; ++k) {
        const int row = shapes[k][1] == rows, column = shapes[k][2] == columns;
        if (shapes[k][0] != 1 || (!row && shapes[k][1] != 1) || (!column && shapes[k][2] != 1)) return 0;
        if (k >= in && !(row && column)) return 0;
        if (!row) places[k].row = 0;
        if (!column) places[k].column = 0;
    }
    const map m = {kernel, numbers, columns, in, out, places};
    if (rows && columns) elementwise(&m, 0, rows);
    return 1;
}

// ---- traces and parameters

// target[b, a, j] += slope[b, a] z[b, j]
void add_outer(index_t B, index_t R, index_t m, const view *arrays)
{
    const view *target = arrays, *slope = arrays + 1, *z = arrays + 2;
    for (index_t b = 0; b < B; ++b)
    for (index_t a = 0; a < R; ++a) {
        const REAL s = AT(*slope, b, a);
        const REAL *from = z->at + b * z->row;
        REAL *to = target->at + b * target->step + a * target->row;
        #pragma omp simd
        for (index_t j = 0; j < m; ++j) to[j] += s * from[j];
    }
}

// One step of Adam on flat vectors: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − rate·m / (√(v/correction2) + ε).
void adam(
    index_t size, const REAL *p, const REAL *g, const REAL *m, const REAL *v, REAL *p_new, REAL *m_new, REAL *v_new,
    const REAL *numbers)
{
    const REAL rate = numbers[0], beta1 = numbers[1], rest1 = numbers[2], beta2 = numbers[3], rest2 = numbers[4];
    const REAL correction2 = numbers[5], epsilon = numbers[6], most = numbers[7];
    #pragma omp simd
    for (index_t q = 0; q < size; ++q) {
        const REAL m_q = beta1 * m[q] + rest1 * g[q], v_q = beta2 * v[q] + rest2 * g[q] * g[q];
        REAL step = m_q * rate / (sqrt(v_q / correction2) + epsilon);
        step = step > most ? most : step;
        step = step < -most ? -most : step;
        m_new[q] = m_q;
        v_new[q] = v_q;
        p_new[q] = p[q] - step;
    }
}

// ---- over the steps of a trial

// what arrives at some neighbouring inputs: u (rows, m) += sent (rows, k) · w; turned once, as BLAS likes it better so
typedef struct {
    view sent, u;
    const REAL *w;
    index_t m, k;
} product;

typedef struct {
    index_t T, B, n, N, populations, products, held;
    const map *advance, *send;
    const product *product;
    gemm_t *gemm;
    REAL *starts, *sent, *states, *rates;  // (T, B, n), (T, B, N) before and after each step
    const REAL *noise;                     // (T, B, n) or none
    const index_t *held_at;                // states that are held, and at what
    const REAL *held_value;
    const unsigned char *end;              // (T, B), where trials end on the way, or none
    const REAL *fresh, *fresh_rate;        // what they start from then
    REAL *work;                            // (B, largest k)
} run;

static void arrive(const run *x, const product *p, index_t t)
{
    const REAL *sent = p->sent.at + t * p->sent.step;
    index_t row = p->sent.row;
    if (p->sent.column != 1) {
        gather(&p->sent, t, 0, 0, x->B, p->k, x->work);
        sent = x->work;
        row = p->k;
    }
    multiply(x->gemm, x->B, p->m, p->k, sent, row, p->w, 1, p->u.at + t * p->u.step, p->u.row);
}

static void restart(const run *x, index_t t, const REAL *fresh, const REAL *after, REAL *next, index_t size)
{
    for (index_t b = 0; b < x->B; ++b)
        memcpy(next + ((t + 1) * x->B + b) * size,
               x->end[t * x->B + b] ? fresh : after + (t * x->B + b) * size, size * sizeof(REAL));
}

void roll(const run *x)
{
    for (index_t t = 0; t < x->T; ++t) {
        for (index_t k = 0; k < x->products; ++k) arrive(x, x->product + k, t);
        for (index_t k = 0; k < x->populations; ++k) elementwise(x->advance + k, t, x->B);
        REAL *s = x->states + t * x->B * x->n;
        if (x->noise)
            for (index_t k = 0; k < x->B * x->n; ++k) s[k] += x->noise[t * x->B * x->n + k];
        for (index_t b = 0; b < x->B; ++b)
            for (index_t k = 0; k < x->held; ++k) s[b * x->n + x->held_at[k]] = x->held_value[k];
        for (index_t k = 0; k < x->populations; ++k) elementwise(x->send + k, t, x->B);
        if (x->end && t + 1 < x->T) {
            restart(x, t, x->fresh, x->states, x->starts, x->n);
            restart(x, t, x->fresh_rate, x->rates, x->sent, x->N);
        }
    }
}

// ---- and back

// what goes from one state or input to another, times a factor (t, rows, N)
typedef struct {
    index_t from, to;
    view factor;
} term;

// a population: v C for its inputs, and v A for its states
typedef struct {
    index_t N, S, P, offset, own, credit;
    const term *A, *C;
    REAL *v, *carried;        // (S, B, N)
    REAL *received;           // (B, P, N) of every step, or of one
    index_t received_step;
} neurons;

// through synapses: received (rows, k) · w, times D, to the presynaptic states
typedef struct {
    index_t post, pre, port, k, m, slopes, direct;
    const REAL *w;
    index_t w_step;
    const term *D;
} way;

enum { SUMS, ARRIVING, CREDIT };

typedef struct {
    index_t T, B, n, populations, ways, give;
    neurons *neurons;
    const way *way;
    gemm_t *gemm;
    const REAL *errors;             // (T, B, n), or (B, n) of the last step alone
    index_t last_alone;
    const unsigned char *going_on;  // (places, B)
    const index_t *place, *weights; // where the factors of each step are, and which weights it has; none: as they come
    REAL decay;
    REAL *out, *work;               // (places, B, n), (B, largest m)
} sweep;

// to (rows, N) ← (or +=) from · factor
static void add_term(
    const term *x, index_t place, index_t B, index_t N, const REAL *restrict from, REAL *restrict to, int first)
{
    const REAL *restrict f = x->factor.at + place * x->factor.step;
    const index_t row = x->factor.row;
    if (row == N) {
        if (first)
            for (index_t q = 0; q < B * N; ++q) to[q] = from[q] * f[q];
        else
            for (index_t q = 0; q < B * N; ++q) to[q] += from[q] * f[q];
        return;
    }
    for (index_t b = 0; b < B; ++b, f += row, from += N, to += N) {
        if (first)
            for (index_t i = 0; i < N; ++i) to[i] = from[i] * f[i];
        else
            for (index_t i = 0; i < N; ++i) to[i] += from[i] * f[i];
    }
}

// out (rows, N) ← Σ_k v_k factor_kl over the terms that go to l, 0 where there is none
static void add_terms(
    const term *terms, index_t count, index_t l, index_t place, index_t B, index_t N, const REAL *v, REAL *out)
{
    int first = 1;
    for (index_t k = 0; k < count; ++k)
        if (terms[k].to == l) {
            add_term(terms + k, place, B, N, v + terms[k].from * B * N, out, first);
            first = 0;
        }
    if (first) memset(out, 0, B * N * sizeof(REAL));
}

static REAL *received_at(const neurons *p, index_t t) { return p->received + t * p->received_step; }

static void credit(const sweep *x, const neurons *p, index_t t, index_t place)
{
    for (index_t l = 0; l < p->P; ++l) {
        REAL *to = received_at(p, t) + l * p->N, *from = p->P == 1 ? to : x->work;
        add_terms(p->C, p->credit, l, place, x->B, p->N, p->v, from);
        for (index_t b = 0; from != to && b < x->B; ++b)
            memcpy(to + b * p->P * p->N, from + b * p->N, p->N * sizeof(REAL));
    }
}

static void through(const sweep *x, const way *w, index_t t, index_t place, index_t weights)
{
    const neurons *post = x->neurons + w->post, *pre = x->neurons + w->pre;
    const REAL *received = received_at(post, t) + w->port * post->N, *W = w->w + weights * w->w_step;
    const index_t row = post->P * post->N, size = x->B * pre->N;
    if (w->direct) {  // D is 1
        multiply(x->gemm, x->B, w->m, w->k, received, row, W, 1, pre->carried + w->D->to * size, pre->N);
        return;
    }
    multiply(x->gemm, x->B, w->m, w->k, received, row, W, 0, x->work, pre->N);
    for (index_t k = 0; k < w->slopes; ++k)
        add_term(w->D + k, place, x->B, pre->N, x->work, pre->carried + w->D[k].to * size, 0);
}

// What was carried to the end of step t comes to rest there: v_t = errors_t + decay · going_on_t · carried.
static void rest(const sweep *x, neurons *p, index_t t, index_t place)
{
    const int last = t + 1 == x->T, alone = x->last_alone;
    const index_t N = p->N, S = p->S;
    for (index_t b = 0; b < x->B; ++b) {
        const REAL going_on = x->going_on[place * x->B + b];
        const REAL *restrict errors = x->errors + ((alone ? 0 : t) * x->B + b) * x->n + p->offset;
        REAL *restrict out = x->give == CREDIT ? 0 : x->out + (place * x->B + b) * x->n + p->offset;
        for (index_t k = 0; k < S; ++k) {
            REAL *restrict v = p->v + (k * x->B + b) * N, *restrict carried = p->carried + (k * x->B + b) * N;
            if (last)
                for (index_t i = 0; i < N; ++i) carried[i] = 0;
            else
                for (index_t i = 0; i < N; ++i) carried[i] *= going_on;
            for (index_t i = 0; i < N; ++i) v[i] = x->decay == 0 ? 0 : x->decay * carried[i];
            if (last || !alone)
                for (index_t i = 0; i < N; ++i) v[i] += errors[i * S + k];
            if (x->give != CREDIT) {
                const REAL *restrict given = x->give == SUMS ? v : carried;
                for (index_t i = 0; i < N; ++i) out[i * S + k] = given[i];
            }
        }
    }
}

void carry_back(const sweep *x)
{
    for (index_t t = x->T - 1; t >= 0; --t) {
        const index_t place = x->place ? x->place[t] : t;
        if (t + 1 < x->T) {
            const index_t from = x->place ? x->place[t + 1] : t + 1, weights = x->weights ? x->weights[t + 1] : 0;
            for (index_t k = 0; k < x->populations; ++k) {
                const neurons *p = x->neurons + k;
                const index_t size = x->B * p->N;
                for (index_t l = 0; l < p->S; ++l)
                    add_terms(p->A, p->own, l, from, x->B, p->N, p->v, p->carried + l * size);
                if (x->ways && x->give != CREDIT) credit(x, p, 0, from);
            }
            for (index_t k = 0; k < x->ways; ++k)
                through(x, x->way + k, x->give == CREDIT ? t + 1 : 0, from, weights);
        }
        for (index_t k = 0; k < x->populations; ++k) {
            rest(x, x->neurons + k, t, place);
            if (x->give == CREDIT) credit(x, x->neurons + k, t, place);
        }
    }
}

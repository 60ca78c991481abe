// The loops of the C backend that do not depend on a model: over places, traces and parameters.
//
// Kernels made from equations come in as pointers; so do arrays, by Python's buffer protocol.

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

// The loops of the C backend over whole trials: forth, and back. What comes before it is loops.c.
//
// The matrix product is BLAS's, and comes in as a pointer.

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

// ---- back
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

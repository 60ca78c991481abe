// Elementary functions of our own, in float or double (-DREAL_IS_FLOAT=1 or 0), at most 2 ulp off (sigmoid: 3).
//
// They have no branches and no tables, so that a compiler makes vector code of a loop that calls them; a choice is
// computed on both sides. Infinities, NaN, subnormals and overflow come out as they should. Not for -ffast-math.
//
// Coefficients: Chebyshev interpolation with 60 digits, rounded; highest power first.

#include <stdint.h>
#include <string.h>
#include <tgmath.h>

#if REAL_IS_FLOAT
typedef float REAL;
typedef uint32_t bits_t;
typedef int32_t whole_t;
#define MANTISSA 23
#define BIAS 127
#define SHIFT 12582912.0f  // 1.5·2^23: added to a number, it leaves the nearest whole number in the last bits
#define LN2_HIGH 0.693359375f  // a few bits, so that whole multiples are exact
#define LN2_LOW -2.12194440e-4f
#define EXP_HIGH 89.0f  // from here on infinite
#define EXP_LOW -104.0f  // and to here 0
#define EXPM1_LOW -20.0f  // to here −1
#define TINY 1e-8f  // below it expm1(x) = x
#define SMALLEST 1.17549435e-38f  // smallest normal number
#define SQRT_HALF_BITS 0x3f3504f3u
#define ERF_CENTRE 2.0f
#define ERF_HIGHEST 4.0f  // from here on 1
#define EXP_TAIL TERM(1.989100078e-4f) TERM(1.393365896e-3f) TERM(8.333310917e-3f) TERM(4.166646484e-2f) \
    TERM(0.1666666668f) TERM(0.5f)
#define LOG_TAIL TERM(0.2333161447f) TERM(0.2855077863f) TERM(0.4000012221f) TERM(0.6666666655f)
#define ERF_NEAR TERM(7.875875063e-5f) TERM(-8.016864287e-4f) TERM(5.189087423e-3f) TERM(-2.685421201e-2f) \
    TERM(0.1128359472f) TERM(-0.3761262667f) TERM(0.128379166f)
#define TANH_NEAR TERM(2.37076564e-3f) TERM(-8.410070802e-3f) TERM(2.1788322e-2f) TERM(-5.396155178e-2f) \
    TERM(0.1333331287f) TERM(-0.3333333323f)
#define ERF_FAR TERM(-9.441596341e-4f) TERM(-8.365899736e-4f) TERM(6.994855414e-3f) TERM(3.732141351e-3f) \
    TERM(-7.897852327e-2f) TERM(0.2416582111f) TERM(-0.4271858476f) TERM(0.2553956763f)
#ifdef __FP_FAST_FMAF
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#endif
#else
typedef double REAL;
typedef uint64_t bits_t;
typedef int64_t whole_t;
#define MANTISSA 52
#define BIAS 1023
#define SHIFT 6755399441055744.0
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define EXP_HIGH 710.0
#define EXP_LOW -746.0
#define EXPM1_LOW -40.0
#define TINY 1e-17
#define SMALLEST 2.2250738585072014e-308
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdull
#define ERF_CENTRE 3.0
#define ERF_HIGHEST 6.0
#define EXP_TAIL TERM(2.09146945603515916e-9) TERM(2.51052276365517591e-8) TERM(2.75572736248664763e-7) \
    TERM(2.75572553746587421e-6) TERM(2.48015873255621258e-5) TERM(1.98412698748407686e-4) \
    TERM(1.38888888888837442e-3) TERM(8.33333333332612936e-3) TERM(4.16666666666666698e-2) \
    TERM(0.16666666666666671) TERM(0.5)
#define LOG_TAIL TERM(0.130880348509275538) TERM(0.132686383692668239) TERM(0.153862447376216666) \
    TERM(0.181817955475211362) TERM(0.222222223925810451) TERM(0.28571428570799785) \
    TERM(0.400000000000008832) TERM(0.666666666666666665)
#define ERF_NEAR TERM(5.9571761477489114e-11) TERM(-1.13728488567916737e-9) TERM(1.46597752740474358e-8) \
    TERM(-1.6350312701054695e-7) TERM(1.6461000484121368e-6) TERM(-1.49255952668311816e-5) \
    TERM(1.20553311116427109e-4) TERM(-8.54832698083378991e-4) TERM(5.22397762481801447e-3) \
    TERM(-2.68661706450767932e-2) TERM(0.112837916709548787) TERM(-0.376126389031837481) \
    TERM(0.12837916709551257)
#define TANH_NEAR TERM(-1.83359621100394199e-5) TERM(8.15473780652536514e-5) TERM(-2.32251040679385094e-4) \
    TERM(5.880541548418729e-4) TERM(-1.45546480280074492e-3) TERM(3.5920831663434575e-3) \
    TERM(-8.86323211354147319e-3) TERM(2.18694883837809292e-2) TERM(-5.39682539647576248e-2) \
    TERM(0.133333333333301962) TERM(-0.333333333333333287)
#define ERF_FAR TERM(-2.03555756422008592e-7) TERM(-2.69151575928501248e-7) TERM(1.24596208471740918e-6) \
    TERM(2.1124428949403866e-6) TERM(-7.97769657964407286e-6) TERM(-1.28593473514552894e-5) \
    TERM(6.4056577940516657e-5) TERM(4.52552014057953603e-5) TERM(-5.97061953181535196e-4) \
    TERM(7.07746443561197235e-4) TERM(4.26913633307786864e-3) TERM(-2.43924993187907348e-2) \
    TERM(7.16658371979733082e-2) TERM(-0.150115936500775814) TERM(0.245603801712330913) \
    TERM(-0.326233560043037233) TERM(0.17900115118138995)
#ifdef __FP_FAST_FMA
#define FMA(a, b, c) __builtin_fma(a, b, c)
#endif
#endif

// a constructor, as the table of functions writes it: REAL(x) is a cast, REAL alone the type
#define REAL(x) ((REAL)(x))
#ifndef FMA
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define LOG2E REAL(1.4426950408889634)
#define INFINITE REAL(__builtin_inf())
#define TERM(c) p = FMA(p, x, c);

static inline REAL as_real(bits_t bits) { REAL x; memcpy(&x, &bits, sizeof x); return x; }
static inline bits_t as_bits(REAL x) { bits_t bits; memcpy(&bits, &x, sizeof x); return bits; }
static inline REAL size_of(REAL x) { return as_real(as_bits(x) & ~((bits_t)1 << (sizeof(REAL) * 8 - 1))); }
static inline REAL with_sign(REAL size, REAL x) {
    const bits_t sign = (bits_t)1 << (sizeof(REAL) * 8 - 1);
    return as_real((as_bits(size) & ~sign) | (as_bits(x) & sign));
}
static inline REAL power_of_two(whole_t k) { return as_real((bits_t)(k + BIAS) << MANTISSA); }

static inline REAL exp_tail(REAL x) { REAL p = 0; EXP_TAIL return p; }
static inline REAL log_tail(REAL x) { REAL p = 0; LOG_TAIL return p; }
static inline REAL tanh_near(REAL x) { REAL p = 0; TANH_NEAR return p; }
static inline REAL erf_near(REAL x) { REAL p = 0; ERF_NEAR return p; }
static inline REAL erf_far(REAL x) { REAL p = 0; ERF_FAR return p; }

// x = k ln 2 + r, |r| ≤ ½ ln 2: returns e^r − 1, and k. NaN stays NaN.
static inline REAL reduced_expm1(REAL x, whole_t *k) {
    const REAL shifted = FMA(x, LOG2E, SHIFT), n = shifted - SHIFT;
    const REAL r = FMA(n, -LN2_LOW, FMA(n, -LN2_HIGH, x));
    *k = (whole_t)(as_bits(shifted) - as_bits(SHIFT));
    return FMA(r * r, exp_tail(r), r);
}

static inline REAL own_exp(REAL x) {
    REAL y = x < EXP_LOW ? EXP_LOW : x;
    y = y > EXP_HIGH ? EXP_HIGH : y;
    whole_t k;
    const REAL grown = 1 + reduced_expm1(y, &k);
    const whole_t half = k >> 1;  // two powers: one alone may be out of range where the result is not
    return grown * power_of_two(half) * power_of_two(k - half);
}

static inline REAL own_expm1(REAL x) {
    REAL y = x < EXPM1_LOW ? EXPM1_LOW : x;
    y = y > EXP_HIGH ? EXP_HIGH : y;
    whole_t k;
    const REAL p = reduced_expm1(y, &k), half = power_of_two(k - 1);
    const REAL grown = FMA(half, p, half - REAL(0.5));
    return size_of(x) < TINY ? x : 2 * grown;
}

// log(u) for normal u > 0, and log(1 + x) where u = 1 + x was rounded: c = x − (u − 1) is what is missing.
static inline REAL log_of(REAL u, REAL x, REAL c) {
    const bits_t up = as_bits(u) + (as_bits(REAL(1)) - SQRT_HALF_BITS);
    const whole_t k = (whole_t)(up >> MANTISSA) - BIAS;
    const REAL m = as_real((up & (((bits_t)1 << MANTISSA) - 1)) + SQRT_HALF_BITS);
    const REAL n = as_real((bits_t)(k + (whole_t)as_bits(SHIFT))) - SHIFT;
    const REAL f = k == 0 ? x : m - 1, missing = k == 0 ? 0 : c / u;
    const REAL s = f / (2 + f), z = s * s, square = REAL(0.5) * f * f;
    const REAL small = FMA(s, FMA(z, log_tail(z), square), FMA(n, LN2_LOW, missing));
    return FMA(n, LN2_HIGH, f - (square - small));
}

static inline REAL own_log(REAL x) {
    const int low = x < SMALLEST;
    const REAL u = low ? x * power_of_two(MANTISSA) : x;
    const REAL y = log_of(u, u - 1, 0) - (low ? MANTISSA * (LN2_HIGH + LN2_LOW) : 0);
    const REAL special = x == 0 ? -INFINITE : x > 0 ? x : REAL(__builtin_nan(""));
    return x > 0 && x < INFINITE ? y : special;
}

static inline REAL own_log1p(REAL x) {
    const REAL u = 1 + x, c = u < 2 ? x - (u - 1) : 1 - (u - x);
    const REAL y = size_of(x) < TINY ? x : log_of(u, x, c);
    const REAL special = x == -1 ? -INFINITE : x > 0 ? x : REAL(__builtin_nan(""));
    return x > -1 && x < INFINITE ? y : special;
}

static inline REAL own_tanh(REAL x) {
    const REAL a = size_of(x), near = a < REAL(0.6) ? a : REAL(0.6), z = near * near;
    const REAL E = own_expm1(2 * (a > EXP_HIGH / 4 ? EXP_HIGH / 4 : a));
    return with_sign(a < REAL(0.6) ? FMA(near * z, tanh_near(z), near) : E / (E + 2), x);
}

// by exp(−|x|), which does not overflow; what is 0 in the end passes through the subnormal numbers
static inline REAL own_sigmoid(REAL x) {
    const REAL E = own_exp(-size_of(x)), y = 1 / (1 + E);  // y as its slope has it, so that both divide once
    return x < 0 ? E * y : y;
}

static inline REAL own_erf(REAL x) {
    const REAL a = size_of(x), far = a > ERF_HIGHEST ? ERF_HIGHEST : a, near = a < 1 ? a : 1;
    const REAL rest = own_exp(-far * far) * erf_far((far - ERF_CENTRE) / (far + ERF_CENTRE));
    const REAL y = a < 1 ? FMA(near, erf_near(near * near), near) : 1 - rest;
    return x == x ? with_sign(y, x) : x;
}

// x^n for whole n > 0 known when the program is compiled
static inline REAL whole_power(REAL x, int n) {
    REAL y = 1;
    for (; n; n >>= 1, x *= x)
        y = n & 1 ? y * x : y;
    return y;
}

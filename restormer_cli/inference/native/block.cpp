// A transformer block of Restormer in two passes over a rectangle of its feature map. `sums` adds
// up q k^T and the squares of q and k. `finish` applies attention and the feed-forward network.
// They compute the same as `network.restormer`, but keep what they compute between reading the map
// and writing the result in the cache of a core: they take bands of rows of about BAND_PIXELS
// pixels, and a depthwise convolution keeps the band before, whose last two rows it needs.
//
// Features and weights are of type E, bf16 or float; sums are always float. Channels are innermost,
// and a vector has LANES of them. `library.py` packs the weights and provides the memory.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifndef ASAN_POISON_MEMORY_REGION  // tools/sanitize.py includes sanitizer/asan_interface.h
#define ASAN_POISON_MEMORY_REGION(p, size) (void)0
#define ASAN_UNPOISON_MEMORY_REGION(p, size) (void)0
#endif

namespace {
// --- Vectors ------------------------------------------------------------------------------------
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;  // SSE, NEON, or whatever the compiler makes of it
#endif
typedef float Vector __attribute__((vector_size(4 * LANES)));
struct bf16 { uint16_t bits; };  // the upper half of a float
inline Vector load(const float* p) { Vector v; memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, Vector v) { memcpy(p, &v, sizeof v); }
#ifdef __AVX512BF16__
inline __m512i lower(__m256i halves) { return _mm512_cvtepu16_epi32(halves); }
inline __m256i rounded(Vector v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }
inline Vector load(const bf16* p) {
    return (Vector)_mm512_slli_epi32(lower(_mm256_loadu_si256((const __m256i*)p)), 16);
}
inline void store(bf16* p, Vector v) { _mm256_storeu_si256((__m256i*)p, rounded(v)); }
#endif
inline Vector splat(float f) { return f - Vector{}; }
inline Vector square(Vector v) { return v * v; }
// Lane i of the result is the sum of the lanes of v[i]; v changes.
inline Vector totals(Vector* v) {
#if defined(__AVX512F__)
    const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i even = odd - _mm512_set1_epi32(1);
    for (int n = LANES / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {  // neighbouring lanes of both vectors
            const __m512 a = (__m512)v[2 * i], b = (__m512)v[2 * i + 1];
            v[i] = (Vector)(_mm512_permutex2var_ps(a, even, b) + _mm512_permutex2var_ps(a, odd, b));
        }
    return v[0];
#else
    Vector sums = {};
    for (int i = 0; i < LANES * LANES; i++) sums[i / LANES] += v[i / LANES][i % LANES];
    return sums;
#endif
}

// Phi(x) = 1/2 + x P(u) with u = 2 (x / limit)^2 - 1 for |x| < limit. Beyond it, the sum is not in
// 0..1 and is clamped. tools/gelu.py derives the coefficients. For |x| <= 12, the error of x Phi(x)
// is at most 1.7e-4 for bf16, whose own rounding is 4e-3, and at most 1.1e-6 for float.
template <class E> struct Gelu {
    static constexpr float limit = 5.1f;
    static constexpr float p[] = {6.54200808e-4f, -1.95683167e-3f, 2.40441125e-3f, -3.22962179e-3f,
        6.85993685e-3f, -0.0120242587f, 0.017465484f, -0.0240164659f, 0.0317160248f,
        -0.0402186589f, 0.0507829571f, -0.0690032603f, 0.138605283f};
};
template <> struct Gelu<bf16> {
    static constexpr float limit = 3.95f;
    static constexpr float p[] = {5.51550245e-3f, -0.0155296905f, 0.0232660012f, -0.0350746473f,
        0.0554058971f, -0.0850985336f, 0.17809829f};
};
template <class E> inline Vector gelu(Vector x) {
    constexpr float limit = Gelu<E>::limit;
    const Vector u = x * x * (2 / (limit * limit)) - 1.0f;
    Vector p = splat(Gelu<E>::p[0]);
#pragma GCC unroll 16
    for (size_t i = 1; i < sizeof Gelu<E>::p / sizeof(float); i++) p = p * u + Gelu<E>::p[i];
    const Vector phi = p * x + 0.5f, most = phi < 1 ? phi : splat(1);
    return x * (most > 0 ? most : splat(0));
}

// --- Memory -------------------------------------------------------------------------------------
// Divides the memory of the caller. Without memory, it only counts the bytes that are needed.
struct Scratch {
    char* memory; size_t used = 0;
    template <class T> T* take(ptrdiff_t count) {
        constexpr size_t LINE = 64;  // a cache line, also left free between parts
        T* part = memory ? (T*)(memory + used) : nullptr;
        used += (count * sizeof(T) + LINE - 1) / LINE * LINE + LINE;
        if (memory) ASAN_POISON_MEMORY_REGION(memory + used - LINE, LINE);
        return part;
    }
    ~Scratch() { if (memory) ASAN_UNPOISON_MEMORY_REGION(memory, used); }
};

// --- Matrix products ----------------------------------------------------------------------------
constexpr int ROWS = LANES == 16 ? 8 : 4;  // of a product, in registers; a divisor of 16
constexpr int TILE = 16;                   // rows of an AMX tile; it has 32 columns of bf16
constexpr int BAND_PIXELS = 384;           // fastest with 2 MiB of cache per core

// The left factor of a product has rows of `padded(K)` elements, and `TILE` rows in reserve. What
// is in the reserve does not matter, but the columns after K must be zero.
template <class E> constexpr int padded(int k) { return sizeof(E) == 2 ? (k + 31) / 32 * 32 : k; }
// In the right factor, element (k, n) is at w[k * row + n] for float. For bf16, neighbouring rows
// are interleaved: it is at w[(k / 2 * row + n) * 2 + k % 2].
template <class E> constexpr ptrdiff_t PAIR = sizeof(E) == 2 ? 2 : 1;
// Row r of vector v of a matrix of floats is at `at + r * row + v * vector`.
struct Floats { float* at; ptrdiff_t row, vector; };
// out = start + a w, of `rows` rows; `start` may be `out`.
template <class E> struct Product {
    const E *a, *w; ptrdiff_t a_row, w_row;
    int rows, K; Floats start, out;
};
// One step of a product: of one row of k, or of two interleaved ones.
inline Vector right_factor(const float* w) { return load(w); }
inline Vector left_factor(const float* a) { return splat(*a); }
inline Vector add(Vector sum, Vector left, Vector right) { return sum + left * right; }
// One step of a product of pixels: a vector of one pixel of float, or of two of bf16, interleaved.
template <class E> Vector step(const float* pixels) { return load(pixels); }
#ifdef __AVX512BF16__
template <> inline Vector step<bf16>(const float* pixels) {
    const __m512i next = _mm512_slli_epi32(lower(rounded(load(pixels + LANES))), 16);
    return (Vector)(next | lower(rounded(load(pixels))));
}
inline __m512bh right_factor(const bf16* w) { return (__m512bh)_mm512_loadu_si512(w); }
inline __m512bh left_factor(const bf16* a) {
    int pair;
    memcpy(&pair, a, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}
inline Vector add(Vector sum, __m512bh left, __m512bh right) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, left, right);
}
#endif
#ifdef __AMX_BF16__
// Linux grants the registers of AMX to a process on request (ARCH_REQ_XCOMP_PERM for XTILEDATA).
const bool has_amx = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
struct Tiles {  // AMX is configured while this lives: eight tiles of 16 rows of 64 bytes
    Tiles() {
        if (!has_amx) return;
        struct { uint8_t palette, unused[15]; uint16_t bytes[16]; uint8_t rows[16]; } c = {1};
        for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = TILE;
        _tile_loadconfig(&c);
    }
    ~Tiles() { if (has_amx) _tile_release(); }
};
// Tiles 0 to 3 hold two by two tiles of the result, 4 and 5 the left factor, 6 and 7 the right one.
// If there are no more rows for the lower two, they are the same as the upper two.
template <int NV> void multiply_tiles(const Product<bf16>& m) {
    asm volatile("" ::: "memory");  // the compiler does not know that tiles are read from memory
    const ptrdiff_t from = 4 * m.start.row, to = 4 * m.out.row;  // in bytes, as the next line
    const ptrdiff_t a_bytes = 2 * m.a_row, w_bytes = 4 * m.w_row;
    for (int r = 0; r < m.rows; r += 2 * TILE) {
        const int lower = r + TILE < m.rows ? r + TILE : r;
        const bf16 *a0 = m.a + r * m.a_row, *a1 = m.a + lower * m.a_row, *w = m.w;
        const float *s0 = m.start.at + r * m.start.row, *s1 = m.start.at + lower * m.start.row;
        float *o0 = m.out.at + r * m.out.row, *o1 = m.out.at + lower * m.out.row;
        _tile_loadd(0, s0, from); _tile_loadd(2, s1, from);
        if (NV == 2) _tile_loadd(1, s0 + m.start.vector, from);
        if (NV == 2) _tile_loadd(3, s1 + m.start.vector, from);
        for (int k = 0; k < m.K; k += 32, a0 += 32, a1 += 32, w += 32 * m.w_row) {
            _tile_loadd(4, a0, a_bytes); _tile_loadd(5, a1, a_bytes); _tile_loadd(6, w, w_bytes);
            _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(2, 5, 6);
            if (NV == 1) continue;
            _tile_loadd(7, w + 2 * LANES, w_bytes);
            _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, o0, to); _tile_stored(2, o1, to);
        if (NV == 2) _tile_stored(1, o0 + m.out.vector, to);
        if (NV == 2) _tile_stored(3, o1 + m.out.vector, to);
    }
    asm volatile("" ::: "memory");
}
#else
constexpr bool has_amx = false;
struct Tiles { ~Tiles() {} };
#endif
template <int NV, class E> void multiply_vectors(const Product<E>& m) {
    const Floats start = m.start, out = m.out;
    const ptrdiff_t a_row = m.a_row, w_row = PAIR<E> * m.w_row;
    for (int r = 0; r < m.rows; r += ROWS) {
        Vector sum[ROWS][NV] = {};
        const E *a = m.a + r * a_row, *w = m.w;
        for (int k = 0; k < m.K; k += PAIR<E>, a += PAIR<E>, w += w_row) {
            decltype(right_factor(w)) right[NV];
            for (int v = 0; v < NV; v++) right[v] = right_factor(w + v * PAIR<E> * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                for (int v = 0; v < NV; v++)
                    sum[i][v] = add(sum[i][v], left_factor(a + i * a_row), right[v]);
        }
        for (int i = 0; i < ROWS; i++)
            for (int v = 0; v < NV; v++)
                store(out.at + (r + i) * out.row + v * out.vector,
                      load(start.at + (r + i) * start.row + v * start.vector) + sum[i][v]);
    }
}
// Compute a product for one or two vectors.
template <class E> void multiply(int vectors, const Product<E>& m) {
#ifdef __AMX_BF16__
    if constexpr (sizeof(E) == 2)
        if (has_amx) return vectors == 1 ? multiply_tiles<1>(m) : multiply_tiles<2>(m);
#endif
    vectors == 1 ? multiply_vectors<1>(m) : multiply_vectors<2>(m);
}
// out += a w for all columns of a weight matrix, which is packed in blocks of two vectors.
template <class E> void add_product(const E* a, int rows, int K, const E* w, int N, float* out) {
    for (int n = 0; n < N; n += 2 * LANES) {
        const int vectors = std::min(2, (N - n) / LANES), k = padded<E>(K);
        const Floats sums{out + n, N, LANES};
        multiply<E>(vectors, {a, w + n * k, k, vectors * LANES, rows, K, sums, sums});
    }
}

// --- LayerNorm and depthwise convolution --------------------------------------------------------
// Divide the C channels of each pixel by their standard deviation, after centring if `centred`.
// LANES pixels are taken at a time. If C is one or two vectors, the compiler knows it.
template <class E, int VECTORS = 0>
void normalise(const float* x, int pixels, int C, bool centred, E* out) {
    if (!VECTORS && C == LANES) return normalise<E, 1>(x, pixels, C, centred, out);
    if (!VECTORS && C == 2 * LANES) return normalise<E, 2>(x, pixels, C, centred, out);
    if (VECTORS) C = VECTORS * LANES;
    for (; pixels > 0; pixels -= LANES) {
        const int count = std::min(LANES, pixels);
        float mean[LANES], scale[LANES];
        Vector sums[LANES] = {}, squares[LANES] = {};
        for (int p = 0; p < count; p++)
            for (int c = 0; c < C; c += LANES) sums[p] += load(x + p * C + c);
        store(mean, totals(sums) / (float)C);
        for (int p = 0; p < count; p++)
            for (int c = 0; c < C; c += LANES) squares[p] += square(load(x + p * C + c) - mean[p]);
        store(scale, totals(squares) / (float)C + 1e-5f);
        for (float& s : scale) s = 1 / std::sqrt(s);
        for (int p = 0; p < count; p++, x += C, out += padded<E>(C)) {
            const float shift = centred ? mean[p] : 0;
            for (int c = 0; c < C; c += LANES) store(out + c, (load(x + c) - shift) * scale[p]);
        }
    }
}

// Convolve one vector of rows first - 2 to rows - 1 of a band; those below 0 end at `before`. Call
// emit(pixel, sum) for the result, which has two columns less. Weights: nine vectors and a bias.
template <class Emit>
inline void convolve(const float* before, const float* band, const float* weights, int columns,
                     int first, int rows, Emit emit) {
    Vector w[10];
#pragma GCC unroll 10
    for (int i = 0; i < 10; i++) w[i] = load(weights + i * LANES);
    auto row = [&](int y) { return (y < 0 ? before : band) + (ptrdiff_t)y * columns * LANES; };
    ptrdiff_t pixel = 0;
    for (int y = first; y < rows; y++) {
        const float *upper = row(y - 2), *middle = row(y - 1), *lower = row(y);
        Vector next = w[9], third = w[9];  // bias and sums of one column of the kernel, and of two
        for (ptrdiff_t x = 0; x < columns * LANES; x += LANES) {
            const Vector a = load(upper + x), b = load(middle + x), c = load(lower + x);
            if (x >= 2 * LANES) emit(pixel++, third + a * w[2] + b * w[5] + c * w[8]);
            third = next + a * w[1] + b * w[4] + c * w[7];
            next = w[9] + a * w[0] + b * w[3] + c * w[6];
        }
    }
}

// Rows and columns of a rectangle, and how many of them lie outside the image on each side.
struct Frame {
    int rows, columns, top, bottom, left, right;
    Frame inner() const {  // without one pixel on every side
        return {rows - 2, columns - 2, std::max(0, top - 1), std::max(0, bottom - 1),
                std::max(0, left - 1), std::max(0, right - 1)};
    }
    int band() const { return std::min(rows, std::max(2, BAND_PIXELS / columns)); }  // in rows
};

// Some channels of a feature map, from a pixel on; `row` is the distance of its rows in elements.
struct Group { void* pixels; int first_channel, channels; ptrdiff_t row; };
typedef Group Map[2];  // the second group may be empty
// Copy channels of pixels between memory with other numbers of them, and add a bias if any.
template <class From, class To>
inline void copy(const From* from, int from_pixel, To* to, int to_pixel, int pixels, int channels,
                 const float* bias = nullptr) {
    for (int p = 0; p < pixels; p++, from += from_pixel, to += to_pixel)
        for (int c = 0; c < channels; c += LANES)
            store(to + c, bias ? load(from + c) + load(bias + c) : load(from + c));
}
// Copy rows of a frame from a map; they are zero outside the image.
template <class E> void read(const Map& x, const Frame& f, int first, int rows, int C, float* to) {
    const int end = std::min(first + rows, f.rows - f.bottom), width = f.columns - f.left - f.right;
    if (f.top || f.bottom || f.left || f.right)
        memset(to, 0, (ptrdiff_t)rows * f.columns * C * sizeof(float));
    for (const Group& g : x)
        for (int r = std::max(first, f.top); r < end; r++)
            copy((const E*)g.pixels + (r - f.top) * g.row, g.channels, g.first_channel + to +
                 ((r - first) * f.columns + f.left) * C, C, width, g.channels);
}
template <class E> void write(const float* from, int y, int rows, int width, int C, const Map& x) {
    for (const Group& g : x)
        for (int r = 0; r < rows; r++)
            copy(from + r * width * C + g.first_channel, C,
                 (E*)g.pixels + (y + r) * g.row, g.channels, width, g.channels);
}

// A product, and the weights for `convolve`.
struct Layer { const void* matrix; const float *bias, *depthwise; };
struct Weights {
    int channels, hidden, heads, centred;
    Layer qk, v, gates, out;  // vectors of q and k alternate, as those of gate and value; out: 1x1
};

// A 1x1 and a depthwise 3x3 convolution of a frame whose rows arrive in bands.
template <class E> struct Projection {
    const Layer layer; const Frame frame; const int K, vectors;
    const ptrdiff_t row, plane;  // of one vector, in floats
    float *bands, *before;       // all vectors of a band, and of the one before it
    int seen = 0, rows_before = 0;
    Projection(const Layer& layer, int K, int N, const Frame& f, int band, Scratch& scratch)
        : layer(layer), frame(f), K(K), vectors(N / LANES), row(f.columns * LANES),
          plane(band * row + TILE * LANES), bands(scratch.take<float>(plane * vectors)),
          before(scratch.take<float>(plane * vectors)) {}
    // Number of rows that the next band of `rows` rows gives.
    int ready(int rows) const { return std::max(0, rows - std::max(0, 2 - seen)); }
    // Add a band of normalised pixels, of at least two rows unless it is the first or the last one.
    // Call use(vector, convolved) for each vector of the result; convolved(emit) computes it.
    template <class Use> void add(const E* normal, int rows, Use use) {
        for (int first = 0; first < vectors; first += 2) {
            const int count = std::min(2, vectors - first), pixels = rows * frame.columns;
            const E* w = (const E*)layer.matrix + first * LANES * padded<E>(K);
            const Floats start{(float*)layer.bias + first * LANES, 0, LANES};
            const Floats out{bands + first * plane, LANES, plane};
            multiply<E>(count, {normal, w, padded<E>(K), count * LANES, pixels, K, start, out});
            for (int v = first; v < first + count; v++) {
                float *band = bands + v * plane, *end = before + v * plane + rows_before * row;
                for (int r = 0; r < rows; r++) clear_outside(band + r * row, seen + r);
                use(v, [&](auto emit) {
                    convolve(end, band, layer.depthwise + v * 10 * LANES, frame.columns,
                             rows - ready(rows), rows, emit);
                });
            }
        }
        if (rows) std::swap(bands, before), rows_before = rows;
        seen += rows;
    }
    void clear_outside(float* p, int r) const {  // the convolution pads the image with zeros
        const bool outside = r < frame.top || r >= frame.rows - frame.bottom;
        const int left = outside ? frame.columns : frame.left;
        memset(p, 0, left * LANES * sizeof(float));
        memset(p + row - frame.right * LANES, 0, frame.right * LANES * sizeof(float));
    }
};

// The matrices of a frame's segments, row by row, and where rows and columns of segments end.
struct Segments {
    const float* bias; const void* const* matrices;
    const int *bottoms, *rights, across;  // the number of columns
};
// Write x plus attention for rows of a frame, which begin with row `first`. Segments are computed
// in order, each after its part of x was copied: a product also changes up to TILE pixels after it.
template <class E> void attend(const Segments& s, const E* values, int first, int rows, int columns,
                               int C, const float* x, ptrdiff_t x_row, float* y) {
    for (int r = 0, down = 0, end; r < rows; r = end) {
        while (s.bottoms[down] <= first + r) down++;
        end = s.across == 1 ? std::min(rows, s.bottoms[down] - first) : r + 1;
        for (int i = 0, left = 0; i < s.across; left = s.rights[i++]) {
            const int width = s.rights[i] - left, begin = r * columns + left;
            const E* w = (const E*)s.matrices[down * s.across + i];
            for (int n = r; n < end; n++)
                copy(x + n * x_row + left * C, C, y + (n * columns + left) * C, C, width, C, s.bias);
            add_product(values + begin * padded<E>(C), (end - r) * width, C, w, C, y + begin * C);
        }
    }
}

// --- The two passes -----------------------------------------------------------------------------
struct Job {
    Map x;      // from the first pixel of the frame inside the image on
    Map out;    // of `finish`: from the pixel two rows and columns inside the frame on
    Segments mix;  // of `finish`: output projection times attention
    float *gram, *squares;  // of `sums`: heads c c, and 2 C; added to
    char* scratch;          // or null, to return its size in bytes
    Frame frame;
};
template <class E> E* take_rows(ptrdiff_t rows, int K, Scratch& scratch) {
    const ptrdiff_t size = (rows + TILE) * padded<E>(K);
    E* a = scratch.take<E>(size);
    if (a && padded<E>(K) != K) memset(a, 0, size * sizeof(E));
    return a;
}

template <class E> size_t sums(const Weights& w, const Job& job) {
    const Frame f = job.frame;
    const int C = w.channels, c = C / w.heads, band = f.band(), width = f.columns - 2;
    const ptrdiff_t most = padded<E>(band * width);
    Scratch scratch{job.scratch};
    Projection<E> qk(w.qk, C, 2 * C, f, band, scratch);
    float* x = scratch.take<float>(band * f.columns * C);
    E* normal = take_rows<E>(band * f.columns, C, scratch);
    E *q = scratch.take<E>(C * most), *k = scratch.take<E>(C * most);  // q is transposed
    float* pixels = scratch.take<float>(LANES * most);
    if (!job.scratch) return scratch.used;
    const Tiles tiles;
    for (int y = 0; y < f.rows; y += band) {
        const int rows = std::min(band, f.rows - y);
        const int count = qk.ready(rows) * width, all = padded<E>(count);
        read<E>(job.x, f, y, rows, C, x);
        normalise(x, rows * f.columns, C, w.centred, normal);
        memset(pixels + count * LANES, 0, (all - count) * LANES * sizeof(float));
        qk.add(normal, rows, [&](int vector, auto convolved) {
            const int at = vector / 2 * LANES;
            float* squares = job.squares + vector % 2 * C + at;
            Vector sum = {};
            convolved([&](ptrdiff_t p, Vector x) { sum += square(x), store(pixels + p * LANES, x); });
            store(squares, load(squares) + sum);
            for (int p = 0; p < all; p += PAIR<E>) {
                const Vector v = step<E>(pixels + p * LANES);
                if (vector % 2) store((float*)(k + p * C + at * PAIR<E>), v);
                for (int c = 0; c < LANES && vector % 2 == 0; c++)
                    memcpy(q + (at + c) * most + p, (const float*)&v + c, sizeof(float));
            }
        });
        for (int h = 0; h < w.heads; h++)
            for (int n = 0; n < c; n += 2 * LANES) {
                const Floats gram{job.gram + (ptrdiff_t)h * c * c + n, c, LANES};
                const E *left = q + h * c * most, *right = k + (h * c + n) * PAIR<E>;
                const int vectors = std::min(2, (c - n) / LANES);
                multiply<E>(vectors, {left, right, most, C, c, count, gram, gram});
            }
    }
    return scratch.used;
}

template <class E> size_t finish(const Weights& w, const Job& job) {
    const Frame f = job.frame, g = f.inner();  // of x, and of y = x + attention
    const int C = w.channels, D = w.hidden, band = f.band(), width = g.columns - 2;
    Scratch scratch{job.scratch};
    Projection<E> v(w.v, C, C, f, band, scratch);
    Projection<E> gates(w.gates, C, 2 * D, g, band, scratch);
    float* bands = scratch.take<float>((band + 1) * f.columns * C);  // with the row before
    E* normal = take_rows<E>(band * f.columns, C, scratch);
    E* values = take_rows<E>(band * g.columns, C, scratch);
    E* gated = take_rows<E>(band * width, D, scratch);
    float* gate = scratch.take<float>(band * width * LANES);
    float* y = scratch.take<float>(((band + 2) * g.columns + TILE) * C);  // with the last two rows
    float* result = scratch.take<float>((band * width + TILE) * C);
    if (!job.scratch) return scratch.used;
    const Tiles tiles;
    const ptrdiff_t x_row = f.columns * C, y_row = g.columns * C;
    float* x = bands + x_row;
    int before = 0, written = 0;  // rows of y in the previous band, rows of the result
    while (v.seen < f.rows) {
        const int rows = std::min(band, f.rows - v.seen);
        const int ready = v.ready(rows), complete = gates.ready(ready);
        // The first row of y that gets a result is the second of the frame, or the last but one of
        // the previous band. The first new row of x to be added to y precedes the band by a row.
        const int centre = gates.seen < 2 ? 3 - gates.seen : 1;
        const float* residual = x + (rows - ready - 1) * x_row + C;
        read<E>(job.x, f, v.seen, rows, C, x);
        normalise(x, rows * f.columns, C, w.centred, normal);
        v.add(normal, rows, [&](int vector, auto convolved) {
            E* to = values + vector * LANES;
            convolved([&](ptrdiff_t p, Vector sum) { store(to + p * padded<E>(C), sum); });
        });
        memmove(y, y + before * y_row, 2 * y_row * sizeof(float)), before = ready;
        attend(job.mix, values, gates.seen, ready, g.columns, C, residual, x_row, y + 2 * y_row);
        memcpy(bands, x + (rows - 1) * x_row, x_row * sizeof(float));
        normalise(y + 2 * y_row, ready * g.columns, C, w.centred, normal);
        gates.add(normal, ready, [&](int vector, auto convolved) {
            E* to = gated + vector / 2 * LANES;
            if (vector % 2 == 0)
                convolved([&](ptrdiff_t p, Vector sum) { store(gate + p * LANES, gelu<E>(sum)); });
            else
                convolved([&](ptrdiff_t p, Vector sum) {
                    store(to + p * padded<E>(D), load(gate + p * LANES) * sum);
                });
        });
        for (int r = 0; r < complete; r++)
            copy(y + (r + centre) * y_row + C, C, result + r * width * C, C, width, C, w.out.bias);
        add_product(gated, complete * width, D, (const E*)w.out.matrix, C, result);
        write<E>(result, written, complete, width, C, job.out), written += complete;
    }
    return scratch.used;
}
}  // namespace
extern "C" {
int lanes() { return LANES; }
int amx() { return has_amx; }
size_t sums_float(const Weights* w, const Job* job) { return sums<float>(*w, *job); }
size_t finish_float(const Weights* w, const Job* job) { return finish<float>(*w, *job); }
#ifdef __AVX512BF16__
size_t sums_bf16(const Weights* w, const Job* job) { return sums<bf16>(*w, *job); }
size_t finish_bf16(const Weights* w, const Job* job) { return finish<bf16>(*w, *job); }
#endif
}

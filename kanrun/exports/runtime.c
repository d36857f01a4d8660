/* A trained model as C99, without dependencies; compile it with -lm.

   void @_evaluate(const double x[@_INPUTS], double y[@_OUTPUTS]);

   maps inputs x to outputs y, both in the units of the training data; the outputs of a classifier are the probabilities
   of the classes. @_inputs and @_outputs are the names of inputs and outputs, and @_domain are the ranges of the
   training inputs. */

#include <math.h>
#include <string.h>

typedef struct { int count; const double *points, *values; double shift, scale; } unit;
typedef struct { int input, intervals; const double *knots; } grid;
typedef struct { int grid, to; double base_weight, scale; const double *coefficients; } edge;
typedef struct network network;
typedef struct layer layer;
struct layer {
    enum { SPLINES, RADIAL, DENSE, CHEBYSHEV, BERNSTEIN, SUMS_OF_PRODUCTS, WINDOWS } kind;
    int inputs, outputs, count; /* count: number of edges, centres or ends of windows */
    enum { IDENTITY, SILU, SIGMOID, TANH, RELU, GELU, SIN, GAUSSIAN, NONE } base;
    enum { LINEAR, CONSTANT, ZERO, BASE } extrapolation;
    int degree, sums, products, grids_count, functions, terms, factors;
    const grid *grids;
    const edge *edges;
    const double *weights, *biases, *domain, *coefficients, *sizes, *ends, *starts;
    const double *level, *heights, *centres, *ranked, *smooth_rates, *rough_rates;
    const unit *units;
    const layer *layers;
    const network *windows;
};
struct network { int inputs, outputs, count; const unit *units; const layer *layers; };
typedef struct {
    int levels, indicator, parts, marks;
    const char *const *texts, *other; /* other: the only text without an indicator, or NULL */
    double fill;
    const int *part;
    const double *mark; /* numbers that mean a missing value, such as -999 */
} column;

/* The model. */

/* Return the index of the interval between increasing points that contains x; the first or last if x is outside. */
static int interval(const double *points, int intervals, double x)
{
    int first = 0, last = intervals - 1;
    while (first < last) {
        int middle = (first + last + 1) / 2;
        if (x >= points[middle]) first = middle; else last = middle - 1;
    }
    return first;
}

static double interpolate(int count, const double *from, const double *to, double x)
{
    int i = interval(from, count - 1, x);
    if (x <= from[0]) return to[0];
    if (x >= from[count - 1]) return to[count - 1];
    return (to[i + 1] - to[i]) / (from[i + 1] - from[i]) * (x - from[i]) + to[i];
}

static double forward(const unit *u, double x)
{
    return u->count ? interpolate(u->count, u->points, u->values, x) : (x - u->shift) / u->scale;
}

static double backward(const unit *u, double x)
{
    return u->count ? interpolate(u->count, u->values, u->points, x) : x * u->scale + u->shift;
}

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double normal(double x) { return 0.5 * (1 + erf(x / sqrt(2))); }

static double value_of(int base, double x)
{
    switch (base) {
    case SILU: return x * sigmoid(x);
    case SIGMOID: return sigmoid(x);
    case TANH: return tanh(x);
    case RELU: return x < 0 ? 0 : x;
    case GELU: return x * normal(x);
    case SIN: return sin(x);
    case GAUSSIAN: return exp(-x * x);
    default: return x;
    }
}

static double slope_of(int base, double x)
{
    switch (base) {
    case SILU: return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    case SIGMOID: return sigmoid(x) * (1 - sigmoid(x));
    case TANH: return 1 - tanh(x) * tanh(x);
    case RELU: return x > 0 ? 1 : 0;
    case GELU: return normal(x) + x * exp(-0.5 * x * x) / 2.5066282746310005024;
    case SIN: return cos(x);
    case GAUSSIAN: return -2 * x * exp(-x * x);
    default: return 1;
    }
}

/* Position of an input on its grid: the interval, the values of the non-zero B-splines (extrapolated outside the grid),
   and the value of the base function. */
typedef struct { int interval; double basis[@_DEGREE + 1], base; } place;

/* Compute the non-zero B-splines at x, from degree 0 upwards by the recurrence of Cox and de Boor, and add `beyond`
   times their slopes. */
static void b_splines(const double *knots, int degree, double x, double beyond, double *basis)
{
    double slopes[@_DEGREE + 2] = {0};
    int d, r;
    basis[0] = 1;
    for (d = 1; d <= degree; d++) {
        double carried = 0;
        for (r = 0; r < d; r++) {
            double right = knots[r + 1], left = knots[r + 1 - d], part = basis[r] / (right - left);
            basis[r] = carried + (right - x) * part;
            carried = (x - left) * part;
            if (d == degree) slopes[r] -= degree * part;
            if (d == degree) slopes[r + 1] += degree * part;
        }
        basis[d] = carried;
    }
    for (r = 0; r <= degree; r++) basis[r] += beyond * slopes[r];
}

static place locate(const layer *l, const grid *g, double x)
{
    place p;
    const double *points = g->knots + l->degree;
    double low = points[0], high = points[g->intervals], held = x < low ? low : x > high ? high : x, beyond = x - held;
    int i, outside = l->extrapolation == ZERO && (x < low || x > high);
    beyond = beyond > 1e154 ? 1e154 : beyond < -1e154 ? -1e154 : beyond;
    if (l->extrapolation != LINEAR) beyond = 0;
    p.interval = interval(points, g->intervals, held);
    b_splines(points + p.interval, l->degree, held, beyond, p.basis);
    p.base = l->base == NONE ? 0 : value_of(l->base, l->extrapolation == BASE ? x : held);
    if (l->base != NONE && l->extrapolation == LINEAR) p.base += (x - held) * slope_of(l->base, held);
    for (i = 0; outside && i <= l->degree; i++) p.basis[i] = p.base = 0;
    return p;
}

static void splines(const layer *l, const double *x, double *y)
{
    place at[@_WIDEST];
    double sums[@_WIDEST] = {0};
    int i, r, plain = l->sums - 2 * l->products;
    for (i = 0; i < l->grids_count; i++) at[i] = locate(l, &l->grids[i], x[l->grids[i].input]);
    for (i = 0; i < l->count; i++) {
        const edge *e = &l->edges[i];
        const place *p = &at[e->grid];
        double value = 0;
        for (r = 0; r <= l->degree; r++) value += e->coefficients[p->interval + r] * p->basis[r];
        sums[e->to] += e->scale * value + e->base_weight * p->base;
    }
    for (i = 0; i < plain; i++) y[i] = sums[i];
    for (i = 0; i < l->products; i++) y[plain + i] = sums[plain + 2 * i] * sums[plain + 1 + 2 * i];
}

/* Splines of the inputs, plus exponentials of minus their distances from centres. */
static void radial(const layer *l, const double *x, double *y)
{
    double t[@_WIDEST];
    int c, i, o, inputs = l->inputs, outputs = l->outputs;
    splines(l->layers, x, y);
    for (o = 0; o < outputs; o++) y[o] += l->level[o];
    for (i = 0; l->count && i < inputs; i++) t[i] = forward(&l->units[i], x[i]);
    for (c = 0; c < l->count; c++) {
        double smooth = 0, rough = 0;
        for (i = 0; i < inputs; i++) {
            double far = x[i] - l->centres[c * inputs + i];
            smooth += 0.5 * l->smooth_rates[i] * far * far;
            rough += l->rough_rates[i] * fabs(t[i] - l->ranked[c * inputs + i]);
        }
        smooth = exp(-smooth);
        rough = exp(-rough);
        for (o = 0; o < outputs; o++)
            y[o] += l->heights[o * l->count + c] * smooth + l->heights[(outputs + o) * l->count + c] * rough;
    }
}

static void dense(const layer *l, const double *x, double *y)
{
    int i, j;
    for (i = 0; i < l->outputs; i++) {
        double sum = l->biases[i];
        for (j = 0; j < l->inputs; j++) sum += l->weights[i * l->inputs + j] * x[j];
        y[i] = value_of(l->base, sum);
    }
}

/* Sums of Chebyshev polynomials by Clenshaw's recurrence, or Bezier curves by de Casteljau's algorithm. */
static void curve(const layer *l, const double *x, double *y)
{
    double u = (x[0] - l->domain[0]) / (l->domain[1] - l->domain[0]), t = 2 * u - 1;
    int o, i, left, outputs = l->outputs;
    for (o = 0; o < outputs; o++) {
        const double *c = l->coefficients + o;
        double p[@_WIDEST], later = 0, last = 0, now;
        for (i = 0; i < l->functions; i++) p[i] = c[i * outputs];
        for (i = l->functions - 1; i > 0 && l->kind == CHEBYSHEV; i--) {
            now = p[i] + 2 * t * later - last;
            last = later;
            later = now;
        }
        for (left = l->functions - 1; left > 0 && l->kind == BERNSTEIN; left--)
            for (i = 0; i < left; i++) p[i] = (1 - u) * p[i] + u * p[i + 1];
        y[o] = l->kind == CHEBYSHEV ? p[0] + t * later - last : p[0];
    }
}

static void sums_of_products(const layer *l, const double *x, double *y)
{
    int o, t, f;
    for (o = 0; o < l->outputs; o++) {
        double sum = 0, product;
        for (t = 0; t < l->terms; t++, sum += product)
            for (f = 0, product = 1; f < l->factors; f++) product *= *x++;
        y[o] = sum * l->sizes[o];
    }
}

static void run(const network *n, const double *x, double *y)
{
    double from[@_WIDEST] = {0}, to[@_WIDEST] = {0};
    int i, window;
    for (i = 0; i < n->inputs; i++) from[i] = forward(&n->units[i], x[i]);
    for (i = 0; i < n->count; i++) {
        const layer *l = &n->layers[i];
        switch (l->kind) {
        case SPLINES: splines(l, from, to); break;
        case RADIAL: radial(l, from, to); break;
        case DENSE: dense(l, from, to); break;
        case CHEBYSHEV: case BERNSTEIN: curve(l, from, to); break;
        case SUMS_OF_PRODUCTS: sums_of_products(l, from, to); break;
        case WINDOWS:
            for (window = 0; window < l->count && !(from[l->inputs - 1] <= l->ends[window]); window++) {}
            if (window && from[l->inputs - 1] < l->starts[window - 1]) from[l->inputs - 1] = l->starts[window - 1];
            run(&l->windows[window], from, to);
        }
        memcpy(from, to, sizeof to);
    }
    memcpy(y, from, n->outputs * sizeof *y);
}

void @_evaluate(const double x[@_INPUTS], double y[@_OUTPUTS]);

void @_evaluate(const double x[@_INPUTS], double y[@_OUTPUTS])
{
    double highest, total = 0;
    int i;
    run(&model, x, y);
    highest = y[0];
    for (i = 1; i < @_OUTPUTS; i++) if (y[i] > highest) highest = y[i];
    for (i = 0; i < @_OUTPUTS; i++) {
        if (CLASSIFIES) total += y[i] = exp(y[i] - highest);
        else y[i] = backward(&output_units[i], y[i]);
    }
    for (i = 0; i < @_OUTPUTS; i++) if (CLASSIFIES) y[i] /= total;
}

#if COLUMNS

/* A value of a row of the table; a row has one value for each of @_columns, in order. A value is a number (missing if
   NAN or a number that means a missing value in this column), a date as days since 1970-01-01 (missing if NAN), or a
   text without blanks around it (missing if NULL or ""). @_encode fills x[@_INPUTS] from a row, and returns the number
   of texts on which the model was not trained. */
typedef struct { double number; const char *text; } @_value;

/* Return the day of the year, from 1, for days since 1970-01-01. An era is 400 years and begins in March. */
static double day_of_year(double days)
{
    double z = floor(days) + 719468, era = floor(z / 146097), day = z - era * 146097;
    double year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365);
    double since = day - (365 * year + floor(year / 4) - floor(year / 100)), y = year + 400 * era;
    if (since >= 306) return since - 305;
    return since + 60 + (fmod(y, 4) == 0 && (fmod(y, 100) != 0 || fmod(y, 400) == 0) ? 1 : 0);
}

static double part_of(int part, double days)
{
    if (part == HOUR) return (days - floor(days)) * 24;
    return part == WEEKDAY ? fmod(fmod(floor(days) + 3, 7) + 7, 7) : day_of_year(days);
}

int @_encode(const @_value *row, double *x);

int @_encode(const @_value *row, double *x)
{
    int i, j, unknown = 0;
    for (i = 0; i < COLUMNS; i++) {
        const column *c = &columns[i];
        const char *text = row[i].text && *row[i].text ? row[i].text : "(missing)";
        int known = !c->levels || (c->other && !strcmp(text, c->other)), missing = !c->levels && isnan(row[i].number);
        for (j = 0; j < c->marks; j++) missing |= row[i].number == c->mark[j];
        for (j = 0; j < c->levels; j++) known |= (*x++ = !strcmp(text, c->texts[j])) > 0;
        unknown += !known;
        if (c->levels) continue;
        *x++ = missing ? c->fill : row[i].number;
        for (j = 0; j < c->parts; j++) *x++ = part_of(c->part[j], missing ? c->fill : row[i].number);
        if (c->indicator) *x++ = missing;
    }
    return unknown;
}

#endif

// How arrays are told to compiled code.

typedef int64_t index_t;

// element (t, r, c) of an array is at[t·step + r·row + c·column]; a step of 0 is the same for all
typedef struct {
    REAL *at;
    index_t step, row, column;
} view;

#define AT(v, r, c) (v).at[(r) * (v).row + (c) * (v).column]

// numbers that are worked on at once, so that they stay in the first cache
#define TILE 512

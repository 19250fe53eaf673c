/* AMX and AVX-512 on a processor without them: a handler of SIGILL that does what the instruction says and goes on
   behind it.

   cc -O2 -shared -fPIC instructions.c -o instructions.so -lm

   Known are, in the encodings that an assembler gives them: of AMX ldtilecfg, tilerelease, tilezero, tileloadd,
   tilestored, tdpbf16ps, tdpbssd; of AVX-512, on whole registers without a mask, vmovups from and to memory and
   vdpbf16ps with a pair from memory that is spread over the register. Anything else is an illegal instruction as
   before. Each thread has its own tiles and vector registers; those of the processor are not touched, so whatever
   belongs together must all be executed here. Source: Intel's instruction set reference. */

#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static __thread struct { int rows, bytes; uint8_t row[16][64]; } tile[8];
static __thread int configured;
static __thread uint32_t vector[32][16];
static struct sigaction before;
static uint64_t counts[2]; /* instructions of AMX and of AVX-512, read by tests to tell what was used */

static const int REGISTERS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    if (!(bits & 0x7f800000)) bits &= 0x80000000; /* numbers below the normal ones count as zero */
    memcpy(&value, &bits, 4);
    return value;
}

static void multiply_bfloat16(int c, int a, int b) {
    for (int m = 0; m < tile[c].rows; m++) {
        float sums[32] = {0};
        const uint16_t *left = (const uint16_t *)tile[a].row[m];
        for (int k = 0; k < tile[a].bytes / 4; k++) {
            const uint16_t *right = (const uint16_t *)tile[b].row[k];
            for (int n = 0; n < tile[c].bytes / 4; n++)
                for (int half = 0; half < 2; half++)
                    sums[2 * n + half] += widened(left[2 * k + half]) * widened(right[2 * n + half]);
        }
        float *out = (float *)tile[c].row[m];
        for (int n = 0; n < tile[c].bytes / 4; n++) out[n] += sums[2 * n] + sums[2 * n + 1];
    }
}

static void multiply_int8(int c, int a, int b) {
    for (int m = 0; m < tile[c].rows; m++)
        for (int k = 0; k < tile[a].bytes / 4; k++)
            for (int n = 0; n < tile[c].bytes / 4; n++)
                for (int i = 0; i < 4; i++)
                    ((int32_t *)tile[c].row[m])[n] +=
                        (int32_t)(int8_t)tile[a].row[m][4 * k + i] * (int32_t)(int8_t)tile[b].row[k][4 * n + i];
}

static int configure(const uint8_t *at) {
    for (int t = 0; t < 8; t++) {
        memset(&tile[t], 0, sizeof tile[t]);
        tile[t].bytes = at[16 + 2 * t] | at[17 + 2 * t] << 8;
        tile[t].rows = at[48 + t];
        if (tile[t].rows > 16 || tile[t].bytes > 64) return 0;
    }
    return configured = at[0] == 1;
}

/* The sum is rounded to the nearest; what is below the normal numbers becomes zero. */
static float add_product(float sum, uint16_t one, uint16_t other) {
    sum = fmaf(widened(one), widened(other), fpclassify(sum) == FP_SUBNORMAL ? copysignf(0, sum) : sum);
    return fpclassify(sum) == FP_SUBNORMAL ? copysignf(0, sum) : sum;
}

static void multiply_pairs(int c, int b, uint32_t a) {
    for (int n = 0; n < 16; n++) {
        float sum;
        memcpy(&sum, &vector[c][n], 4);
        sum = add_product(sum, vector[b][n] >> 16, a >> 16); /* the upper halves first, as the manual has it */
        sum = add_product(sum, vector[b][n], a);
        memcpy(&vector[c][n], &sum, 4);
    }
}

struct place { uint64_t base, index; int length; }; /* of an operand in memory; length: of its bytes, 0 if not known */

/* Read the bytes of an operand in memory, the first of which is ModRM. unit: of a distance in one byte. */
static struct place place_of(const uint8_t *code, int no_x, int no_b, int unit, const greg_t *registers) {
    int mod = code[0] >> 6, rm = code[0] & 7;
    struct place found = {0, 0, 0};
    if (mod == 3 || (mod == 0 && rm == 5) || (rm == 4 && mod == 0 && (code[1] & 7) == 5)) return found;
    found.length = 1 + (rm == 4);
    if (rm == 4) {
        int index = (code[1] >> 3 & 7) | (no_x ? 0 : 8);
        if (index != 4) found.index = (uint64_t)registers[REGISTERS[index]] << (code[1] >> 6);
        rm = code[1] & 7;
    }
    found.base = registers[REGISTERS[rm | (no_b ? 0 : 8)]];
    if (mod == 1) found.base += (int64_t)(int8_t)code[found.length++] * unit;
    if (mod == 2) {
        int32_t far;
        memcpy(&far, code + found.length, 4);
        found.base += far;
        found.length += 4;
    }
    return found;
}

/* Execute an instruction of AVX-512; return its length, 0 if it is none that is known. */
static int execute_on_vectors(const uint8_t *code, greg_t *registers) {
    int map = code[1] & 15, prefix = code[2] & 3, opcode = code[4], is_spread = code[3] >> 4 & 1;
    if ((code[2] & 0x84) != 4 || (code[3] & 0xe7) != 0x40) return 0; /* W0, 512 bits, no mask */
    int target = (code[5] >> 3 & 7) | (code[1] & 0x80 ? 0 : 8) | (code[1] & 0x10 ? 0 : 16);
    int source = (15 - (code[2] >> 3 & 15)) | (code[3] & 8 ? 0 : 16);
    struct place at = place_of(code + 5, code[1] >> 6 & 1, code[1] >> 5 & 1, is_spread ? 4 : 64, registers);
    void *memory = (void *)(at.base + at.index);
    if (at.length == 0) return 0;
    if (map == 1 && prefix == 0 && opcode == 0x10 && !is_spread && source == 0) memcpy(vector[target], memory, 64);
    else if (map == 1 && prefix == 0 && opcode == 0x11 && !is_spread && source == 0) memcpy(memory, vector[target], 64);
    else if (map == 2 && prefix == 2 && opcode == 0x52 && is_spread) {
        uint32_t pair;
        memcpy(&pair, memory, 4);
        multiply_pairs(target, source, pair);
    } else return 0;
    return 5 + at.length;
}

/* Execute the instruction at *code; return its length, 0 if it is none that is known. */
static int execute(const uint8_t *code, greg_t *registers) {
    if (code[0] == 0x62) return execute_on_vectors(code, registers); /* EVEX */
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return 0; /* VEX, map 0F38, W0, 128 bits */
    int third = 15 - (code[2] >> 3 & 15), prefix = code[2] & 3;
    int opcode = code[3], reg = code[4] >> 3 & 7, rm = code[4] & 7;
    if (code[4] >> 6 == 3) {
        if (opcode == 0x49 && prefix == 0 && code[4] == 0xc0) { configured = 0; return 5; }
        if (!configured) return 0;
        if (opcode == 0x49 && prefix == 3) memset(tile[reg].row, 0, sizeof tile[reg].row);
        else if (opcode == 0x5c && prefix == 2) multiply_bfloat16(reg, rm, third);
        else if (opcode == 0x5e && prefix == 3) multiply_int8(reg, rm, third);
        else return 0;
        return 5;
    }
    struct place at = place_of(code + 4, code[1] >> 6 & 1, code[1] >> 5 & 1, 1, registers);
    if (at.length == 0) return 0;
    if (opcode == 0x49 && prefix == 0) return configure((const uint8_t *)(at.base + at.index)) ? 4 + at.length : 0;
    if (opcode != 0x4b || rm != 4 || !configured) return 0;
    for (int r = 0; r < tile[reg].rows; r++) {
        void *memory = (void *)(at.base + r * at.index);
        if (prefix == 3) {
            memset(tile[reg].row[r], 0, 64);
            memcpy(tile[reg].row[r], memory, tile[reg].bytes);
        } else if (prefix == 2) memcpy(memory, tile[reg].row[r], tile[reg].bytes);
        else return 0;
    }
    return 4 + at.length;
}

static void handle(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    int length = execute(code, registers), is_avx512 = code[0] == 0x62;
    if (length == 0) {
        sigaction(SIGILL, &before, NULL); /* the instruction is met again, with the handler that was there */
        return;
    }
    __atomic_add_fetch(&counts[is_avx512], 1, __ATOMIC_RELAXED);
    registers[REG_RIP] += length;
}

void start(void) {
    struct sigaction action = {0};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, &before);
}

void stop(void) { sigaction(SIGILL, &before, NULL); }

uint64_t executed(int which) { return __atomic_load_n(&counts[which], __ATOMIC_RELAXED); }

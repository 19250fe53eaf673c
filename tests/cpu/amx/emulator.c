/* AMX on a processor without it: a handler of SIGILL that does what the instruction says and goes on behind it.

   cc -O2 -shared -fPIC emulator.c -o emulator.so

   Seven instructions are known, in the encodings that an assembler gives them: ldtilecfg, tilerelease, tilezero,
   tileloadd, tilestored, tdpbf16ps, tdpbssd. Anything else is an illegal instruction as before. Each thread has its own
   tiles. Source: Intel's instruction set reference. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static __thread struct { int rows, bytes; uint8_t row[16][64]; } tile[8];
static __thread int configured;
static struct sigaction before;
static uint64_t executed; /* read by a test, so that it can tell that the tiles were used */

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

/* Execute the instruction at *code; return its length, 0 if it is none that is known. */
static int execute(const uint8_t *code, greg_t *registers) {
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return 0; /* VEX, map 0F38, W0, 128 bits */
    int no_x = code[1] >> 6 & 1, no_b = code[1] >> 5 & 1, third = 15 - (code[2] >> 3 & 15), prefix = code[2] & 3;
    int opcode = code[3], mod = code[4] >> 6, reg = code[4] >> 3 & 7, rm = code[4] & 7, length = 5;
    if (mod == 3) {
        if (opcode == 0x49 && prefix == 0 && code[4] == 0xc0) { configured = 0; return length; }
        if (!configured) return 0;
        if (opcode == 0x49 && prefix == 3) memset(tile[reg].row, 0, sizeof tile[reg].row);
        else if (opcode == 0x5c && prefix == 2) multiply_bfloat16(reg, rm, third);
        else if (opcode == 0x5e && prefix == 3) multiply_int8(reg, rm, third);
        else return 0;
        return length;
    }
    uint64_t address, stride = 0;
    if (rm == 4) {
        int scale = code[5] >> 6, index = (code[5] >> 3 & 7) | (no_x ? 0 : 8), base = (code[5] & 7) | (no_b ? 0 : 8);
        if ((code[5] & 7) == 5 && mod == 0) return 0;
        address = registers[REGISTERS[base]];
        if (index != 4) stride = (uint64_t)registers[REGISTERS[index]] << scale;
        length = 6;
    } else {
        if (mod == 0 && rm == 5) return 0;
        address = registers[REGISTERS[rm | (no_b ? 0 : 8)]];
    }
    if (mod == 1) address += (int8_t)code[length++];
    if (mod == 2) { int32_t far; memcpy(&far, code + length, 4); address += far; length += 4; }
    if (opcode == 0x49 && prefix == 0) return configure((const uint8_t *)address) ? length : 0;
    if (opcode != 0x4b || rm != 4 || !configured) return 0;
    for (int r = 0; r < tile[reg].rows; r++) {
        void *memory = (void *)(address + r * stride);
        if (prefix == 3) {
            memset(tile[reg].row[r], 0, 64);
            memcpy(tile[reg].row[r], memory, tile[reg].bytes);
        } else if (prefix == 2) memcpy(memory, tile[reg].row[r], tile[reg].bytes);
        else return 0;
    }
    return length;
}

static void handle(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int length = execute((const uint8_t *)registers[REG_RIP], registers);
    if (length == 0) {
        sigaction(SIGILL, &before, NULL); /* the instruction is met again, with the handler that was there */
        return;
    }
    __atomic_add_fetch(&executed, 1, __ATOMIC_RELAXED);
    registers[REG_RIP] += length;
}

void start(void) {
    struct sigaction action = {0};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, &before);
}

void stop(void) { sigaction(SIGILL, &before, NULL); }

uint64_t count(void) { return __atomic_load_n(&executed, __ATOMIC_RELAXED); }

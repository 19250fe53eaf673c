// The scheduler: runs the threads of a block as fibers, one block after the other, and reports what a GPU would do in
// silence: barriers that not all threads reach, accesses outside of what was allocated, arithmetic without a meaning.
//
// A fiber starts on a stack of its own by `setcontext`; from then on `_setjmp` and `_longjmp` switch, which cost some
// 20 ns, since they make no system call. Between two barriers the threads run in a random order, one after the other:
// a text that needs a barrier where there is none reads numbers that were not written yet.
#include <setjmp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

struct Index { unsigned x, y, z; };
struct Region { char *start, *stop; int argument; };  // what an argument may access, as it lies between guard pages
struct Launch {
  void (*call)(void**);
  void** args;
  Index grid, block;
  char *shared, *shared_stop, *dynamic;
  size_t dynamic_bytes;
  const Region* regions;
  int num_regions, seconds;
  uint64_t seed;
  char message[600];
};

extern "C" {
Index threadIdx, blockIdx, blockDim, gridDim;
}

enum State { READY, AT_BARRIER, IN_EXCHANGE, ENDED };
struct Fiber {
  jmp_buf context;
  ucontext_t first;
  char* stack;
  bool started;
  State state;
  Index index;
  int number, line;
  unsigned mask;
  uint64_t value, received[32];
};
const int MOST = 1024, STACK = 1 << 16;
const long FAR = 16 << 20;  // bytes before and behind each argument that nobody may touch; they take no memory
static Fiber fibers[MOST];
static Fiber* current;
static Launch* launch;
static jmp_buf scheduler;
static sigjmp_buf failed;
static pthread_t launcher;
static int num_threads;
static uint64_t random_state;

static void fail(const char* format, ...) {
  char reason[400];
  va_list list;
  va_start(list, format);
  vsnprintf(reason, sizeof(reason), format, list);
  va_end(list);
  snprintf(launch->message, sizeof(launch->message), "%s [block (%u, %u, %u), thread (%u, %u, %u)]", reason, blockIdx.x,
           blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  siglongjmp(failed, 1);
}

// --- switching ---------------------------------------------------------------------------------------------------------

static void yield() {
  if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

static void fiber_main() {
  for (;;) {
    launch->call(launch->args);
    current->state = ENDED;
    yield();
  }
}

static void resume(Fiber* fiber) {
  current = fiber;
  threadIdx = fiber->index;
  if (_setjmp(scheduler)) return;
  if (fiber->started) _longjmp(fiber->context, 1);
  fiber->started = true;
  if (!fiber->stack)
    fiber->stack = (char*)mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  getcontext(&fiber->first);
  fiber->first.uc_stack.ss_sp = fiber->stack;
  fiber->first.uc_stack.ss_size = STACK;
  makecontext(&fiber->first, fiber_main, 0);
  setcontext(&fiber->first);
}

static unsigned random_below(unsigned bound) {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (unsigned)(((z ^ (z >> 31)) >> 32) * bound >> 32);
}

// --- barriers and exchanges --------------------------------------------------------------------------------------------

extern "C" void cuda_barrier(int line) {
  current->state = AT_BARRIER;
  current->line = line;
  yield();
}

extern "C" const uint64_t* cuda_exchange(unsigned mask, uint64_t value, int line) {
  Fiber* warp = fibers + (current->number & ~31);
  int lane = current->number & 31;
  if (!(mask >> lane & 1)) fail("line %d: lane %d is not in the mask 0x%08x that it gives", line, lane, mask);
  current->state = IN_EXCHANGE;
  current->line = line;
  current->mask = mask;
  current->value = value;
  uint64_t values[32] = {};
  for (int i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    if (warp + i >= fibers + num_threads) fail("line %d: the block has no thread for lane %d of the mask", line, i);
    if (warp[i].state != IN_EXCHANGE || warp[i].mask != mask) return yield(), current->received;
    if (warp[i].line != line) fail("line %d: lane %d of the same mask waits in line %d", line, i, warp[i].line);
    values[i] = warp[i].value;
  }
  for (int i = 0; i < 32; i++) {  // all are here
    if (!(mask >> i & 1)) continue;
    memcpy(warp[i].received, values, sizeof(values));
    warp[i].state = READY;
  }
  return current->received;
}

extern "C" void cuda_need_lane(unsigned mask, int lane, int line) {
  if (!(mask >> lane & 1)) fail("line %d: reads lane %d, which is not in the mask 0x%08x", line, lane, mask);
}

extern "C" void* cuda_dynamic_shared() { return launch->dynamic; }

static void release_barrier() {
  int waiting = 0, ended = 0, line = 0;
  for (int i = 0; i < num_threads; i++) {
    if (fibers[i].state == ENDED) ended++;
    if (fibers[i].state != AT_BARRIER) continue;
    if (waiting++ && fibers[i].line != line)
      fail("divergent __syncthreads: some threads wait in line %d, others in line %d", line, fibers[i].line);
    line = fibers[i].line;
  }
  if (waiting < num_threads && waiting)
    fail("divergent __syncthreads in line %d: %d of %d threads wait, %d have ended", line, waiting, num_threads, ended);
  if (!waiting) fail("a warp waits for lanes that never come; %d of %d threads have ended", ended, num_threads);
  for (int i = 0; i < num_threads; i++) fibers[i].state = READY;
}

static void shuffle(int* order, int count) {
  for (int i = count - 1; i > 0; i--) {
    int j = random_below(i + 1), swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
}

// Run each warp as far as it comes before the next one, in a random order of warps and of the lanes of each: one that is
// ahead writes to shared memory what the others still have to read, unless there is a barrier.
static bool run_warps(int* ended) {
  static int warps[MOST / 32], lanes[32];
  int num_warps = (num_threads + 31) / 32;
  bool progress = false;
  for (int w = 0; w < num_warps; w++) warps[w] = w;
  shuffle(warps, num_warps);
  for (int w = 0; w < num_warps; w++) {
    int first = warps[w] * 32, count = num_threads - first < 32 ? num_threads - first : 32;
    for (int i = 0; i < count; i++) lanes[i] = first + i;
    for (bool again = true; again;) {
      again = false;
      shuffle(lanes, count);
      for (int i = 0; i < count; i++) {
        Fiber* fiber = fibers + lanes[i];
        if (fiber->state != READY) continue;
        resume(fiber);
        progress = again = true;
        *ended += fiber->state == ENDED;
      }
    }
  }
  return progress;
}

static void run_block() {
  if (launch->shared) memset(launch->shared, 0xff, launch->shared_stop - launch->shared);
  memset(launch->dynamic, 0xff, launch->dynamic_bytes);
  for (int i = 0; i < num_threads; i++) {
    fibers[i].state = READY;
    fibers[i].number = i;
    fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
  }
  for (int ended = 0; ended < num_threads;) {
    if (!run_warps(&ended)) release_barrier();
  }
}

// --- faults ------------------------------------------------------------------------------------------------------------

static void on_signal(int number, siginfo_t* info, void*) {
  if (!pthread_equal(pthread_self(), launcher)) {
    if (number == SIGVTALRM) pthread_kill(launcher, number);
    else signal(number, SIG_DFL);
    return;
  }
  if (number == SIGVTALRM) fail("does not end within %d s", launch->seconds);
  char* address = (char*)info->si_addr;
  for (int i = 0; i < launch->num_regions; i++) {
    const Region& region = launch->regions[i];
    if (address < region.start - FAR || address >= region.stop + FAR) continue;
    const char* what = region.argument < 0 ? "the dynamic shared memory" : "argument";
    char which[16] = "";
    if (region.argument >= 0) snprintf(which, sizeof(which), " %d", region.argument);
    fail("out of bounds: byte %ld of %s%s, which has %ld", (long)(address - region.start), what, which,
         (long)(region.stop - region.start));
  }
  fail("out of bounds: an address that belongs to no argument");
}

struct Place { const char* file; uint32_t line, column; };
#define UNDEFINED(NAME, WHAT, ...) \
  extern "C" void __ubsan_handle_##NAME(Place* place, ##__VA_ARGS__) { fail("line %u: %s", place->line, WHAT); }
UNDEFINED(out_of_bounds, "an index outside of an array", uintptr_t)
UNDEFINED(type_mismatch_v1, "an address that is not a multiple of what is read there", uintptr_t)
UNDEFINED(add_overflow, "a sum that overflows", uintptr_t, uintptr_t)
UNDEFINED(sub_overflow, "a difference that overflows", uintptr_t, uintptr_t)
UNDEFINED(mul_overflow, "a product that overflows", uintptr_t, uintptr_t)
UNDEFINED(negate_overflow, "a negation that overflows", uintptr_t)
UNDEFINED(divrem_overflow, "a division by zero", uintptr_t, uintptr_t)
UNDEFINED(shift_out_of_bounds, "a shift by too many bits", uintptr_t, uintptr_t)

// --- launch ------------------------------------------------------------------------------------------------------------

static void run_grid() {
  uint64_t total = (uint64_t)gridDim.x * gridDim.y * gridDim.z, start = random_below((unsigned)total);
  for (uint64_t i = 0; i < total; i++) {
    uint64_t block = (i + start) % total;
    blockIdx = {(unsigned)(block % gridDim.x), (unsigned)(block / gridDim.x % gridDim.y),
                (unsigned)(block / gridDim.x / gridDim.y)};
    run_block();
  }
}

extern "C" int cuda_launch(Launch* given) {
  static char signal_stack[1 << 16];
  const int signals[] = {SIGSEGV, SIGBUS, SIGVTALRM};
  struct sigaction action = {}, before[3];
  stack_t stack = {}, stack_before;
  launch = given;
  launcher = pthread_self();
  random_state = launch->seed;
  gridDim = launch->grid;
  blockDim = launch->block;
  num_threads = blockDim.x * blockDim.y * blockDim.z;
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof(signal_stack);
  sigaltstack(&stack, &stack_before);
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int i = 0; i < 3; i++) sigaction(signals[i], &action, before + i);
  struct itimerval limit = {}, none = {};
  limit.it_value.tv_sec = launch->seconds;
  setitimer(ITIMER_VIRTUAL, &limit, 0);
  volatile int fault = sigsetjmp(failed, 1);
  if (!fault) run_grid();
  else for (int i = 0; i < MOST; i++) fibers[i].started = false;
  setitimer(ITIMER_VIRTUAL, &none, 0);
  for (int i = 0; i < 3; i++) sigaction(signals[i], before + i, 0);
  sigaltstack(&stack_before, 0);
  return fault;
}

// Return the first of `bytes` bytes, whole pages, with FAR bytes before and behind them that nobody may touch.
extern "C" char* cuda_map(size_t bytes) {
  char* memory = (char*)mmap(0, bytes + 2 * FAR, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + FAR, bytes, PROT_READ | PROT_WRITE)) return 0;
  return memory + FAR;
}

extern "C" void cuda_unmap(char* start, size_t bytes) { munmap(start - FAR, bytes + 2 * FAR); }

// UCX installs handlers for SIGBUS, SIGSEGV and others when it is loaded, before main. They would print a backtrace
// for a page that has gone from a checkpoint, which moe/checkpoint/sigbus_guard turns into a DATA_LOSS, and stop the
// process where a core dump is wanted. They are taken back here, before main too, so that whatever is installed later
// stays; the library that holds this file is linked whole (alwayslink).
#include <signal.h>
#include <ucs/debug/debug.h>

#include <initializer_list>

namespace {

[[maybe_unused]] const bool g_taken_back = [] {
  for (const int number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) ucs_debug_disable_signal(number);
  return true;
}();

}  // namespace

// CHECK(condition): for our own mistakes only. It stays on in release builds and ends the process with the
// condition, the place and what was streamed into it. What can go wrong outside (a file, a peer, an input)
// returns absl::Status instead; see status_macros.h.
#ifndef CONCLAVE_MOE_BASE_CHECK_H_
#define CONCLAVE_MOE_BASE_CHECK_H_

#include <sstream>

namespace conclave::internal {

// Prints and aborts in its destructor, after the caller has streamed its explanation.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

}  // namespace conclave::internal

#define CONCLAVE_CHECK(condition) \
  while (!(condition)) ::conclave::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

// The same, for expressions of type absl::Status: CHECK_OK(file.Close()).
#define CONCLAVE_CHECK_OK(expression)                                                                      \
  for (auto conclave_check_status = (expression); !conclave_check_status.ok();)                            \
  ::conclave::internal::CheckFailure(__FILE__, __LINE__, #expression).stream() << conclave_check_status << " "

#endif  // CONCLAVE_MOE_BASE_CHECK_H_

// RETURN_IF_ERROR and ASSIGN_OR_RETURN, which Debian's Abseil does not have.
#ifndef CONCLAVE_MOE_BASE_STATUS_MACROS_H_
#define CONCLAVE_MOE_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expression` (an absl::Status) is not OK.
#define RETURN_IF_ERROR(expression)                                             \
  do {                                                                          \
    if (absl::Status conclave_status = (expression); !conclave_status.ok()) {   \
      return conclave_status;                                                   \
    }                                                                           \
  } while (false)

#define CONCLAVE_CONCAT_INNER(a, b) a##b
#define CONCLAVE_CONCAT(a, b) CONCLAVE_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto file, OpenFile(path)): the value, or an early return of the error.
#define ASSIGN_OR_RETURN(declaration, expression) \
  CONCLAVE_ASSIGN_OR_RETURN(CONCLAVE_CONCAT(conclave_statusor_, __LINE__), declaration, expression)
#define CONCLAVE_ASSIGN_OR_RETURN(statusor, declaration, expression) \
  auto statusor = (expression);                                      \
  if (!statusor.ok()) return std::move(statusor).status();           \
  declaration = std::move(statusor).value()

#endif  // CONCLAVE_MOE_BASE_STATUS_MACROS_H_

// remote_experts_test.cc once more, with rows on the device of a host accelerator.
#include "router_service/remote_experts_testing.h"

namespace conclave {
namespace {

[[maybe_unused]] const bool on_device = RemoteExpertsTest::RowsOnDevice() = true;

}  // namespace
}  // namespace conclave

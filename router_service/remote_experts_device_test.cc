// Linked with the tests of the fixture, it has them run with rows on the device of a host accelerator.
#include "router_service/remote_experts_testing.h"

namespace conclave {
namespace {

[[maybe_unused]] const bool on_device = RemoteExpertsTest::RowsOnDevice() = true;

}  // namespace
}  // namespace conclave

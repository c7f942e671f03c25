# Injected into each interface package through CMAKE_PROJECT_<name>_INCLUDE.
# The ROS wheels export imported targets whose include paths are those of the container they were built in
# (/opt/python/cpXY); CMake refuses paths that do not exist. Point them at this machine's headers instead.
function(prophrl_repair_wheel_targets)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(includes MATCHES "/opt/python/")
      string(REGEX REPLACE "/opt/python/[^;>]*/numpy/[^;>]*" "${PROPHRL_NUMPY_INCLUDE}" includes "${includes}")
      string(REGEX REPLACE "/opt/python/[^;>]*/include/python[^;>]*" "${PROPHRL_PYTHON_INCLUDE}" includes "${includes}")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${includes}")
    endif()
  endforeach()
endfunction()
# Deferred to the end of the directory: the targets exist only after the package's own find_package calls.
cmake_language(DEFER CALL prophrl_repair_wheel_targets)
